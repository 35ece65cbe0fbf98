public import RemoteG2Core

/// From where a prefix is loaded that is not in the engine's own memory.
public enum LoadRoute: String, Sendable, Equatable, CaseIterable {
  /// From the own store, which is a node and fetches what other members have. The default of a worker beside
  /// a node.
  case staged
  /// From the own store, and from the hinted peer straight into the engine's memory, over NIXL.
  case direct
}

/// How a connector behaves. Unusable combinations are refused at start-up.
public struct ConnectorSettings: Sendable, Equatable {
  public enum Invalid: Error, Equatable, Sendable, CustomStringConvertible {
    case ranks(Int)
    case blockBytes(Int)
    case targetBlocks(Int)

    public var description: String {
      switch self {
      case .ranks(let count): "a rank group of \(count) is not possible"
      case .blockBytes(let count): "blocks of \(count) bytes are not possible"
      case .targetBlocks(let count): "a G1 of \(count) blocks is not possible"
      }
    }
  }

  /// Ranks of the engine's group, 1 to 64.
  public let rankCount: Int
  /// Bytes of one block on one rank.
  public let blockBytes: Int
  public let tokensPerBlock: Int
  /// Blocks of the engine's own pool (G1).
  public let targetBlockCount: Int
  public var limits: Limits
  public var proof: ProofPolicy
  /// Decides only what a failed load is called here; the coordinator carries it out.
  public var policy: LoadFailurePolicy
  /// Whether a pull must look cheaper than computing. Off only where the pull itself is shown.
  public var pullsByCost: Bool
  public var route: LoadRoute
  /// Blocks one transfer carries at most.
  public var transferBlocksMax: Int {
    max(1, min(limits.transferBlocksMax, limits.transferBytesMax / blockBytes))
  }

  public init(
    rankCount: Int = 1, blockBytes: Int, tokensPerBlock: Int, targetBlockCount: Int,
    limits: Limits = Limits(), proof: ProofPolicy = .onFailure,
    policy: LoadFailurePolicy = .recompute, pullsByCost: Bool = true, route: LoadRoute = .direct
  ) throws(Invalid) {
    guard rankCount >= 1, rankCount <= 64 else { throw .ranks(rankCount) }
    guard blockBytes > 0, tokensPerBlock > 0 else { throw .blockBytes(blockBytes) }
    guard targetBlockCount > 0 else { throw .targetBlocks(targetBlockCount) }
    self.rankCount = rankCount
    self.blockBytes = blockBytes
    self.tokensPerBlock = tokensPerBlock
    self.targetBlockCount = targetBlockCount
    self.limits = limits
    self.proof = proof
    self.policy = policy
    self.pullsByCost = pullsByCost
    self.route = route
  }
}

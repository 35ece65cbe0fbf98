internal import ContentDigest
public import RemoteG2Core

/// What an engine's blocks are: who may share them, and how large they are.
public struct EngineModel: Sendable, Equatable {
  public let fingerprint: Fingerprint
  /// Of one block on one rank.
  public let blockBytes: Int
  public let tokensPerBlock: Int

  public enum Invalid: Error, Equatable, Sendable, CustomStringConvertible {
    case ranks(Int)
    case blockBytes(Int)
    case tokensPerBlock(Int)
    case text(String)

    public var description: String {
      switch self {
      case .ranks(let count): "a group of \(count) ranks is not possible: 1 to 64"
      case .blockBytes(let count): "blocks of \(count) bytes are not possible: 1 to \(1 << 30)"
      case .tokensPerBlock(let count): "blocks of \(count) tokens are not possible"
      case .text(let field): "the \(field) is longer than 4096 bytes"
      }
    }
  }

  public init(
    fingerprint: Fingerprint, blockBytes: Int, tokensPerBlock: Int
  ) throws(Invalid) {
    guard (1...64).contains(fingerprint.rankCount) else {
      throw .ranks(Int(fingerprint.rankCount))
    }
    guard (1...(1 << 30)).contains(blockBytes) else { throw .blockBytes(blockBytes) }
    guard (1...(1 << 20)).contains(tokensPerBlock) else { throw .tokensPerBlock(tokensPerBlock) }
    for (field, text) in [
      ("model", fingerprint.modelDigest), ("layout", fingerprint.layout),
      ("hash scheme", fingerprint.hashScheme), ("numerics", fingerprint.numerics),
    ] where text.utf8.count > 4096 { throw .text(field) }
    self.fingerprint = fingerprint
    self.blockBytes = blockBytes
    self.tokensPerBlock = tokensPerBlock
  }

  public var rankCount: Int { Int(fingerprint.rankCount) }

  /// Names this engine's blocks.
  public var keys: EngineKeys {
    var bytes = ByteWriter()
    bytes.fingerprint(fingerprint)
    return EngineKeys(scope: ContentDigest.of(bytes.bytes))
  }
}

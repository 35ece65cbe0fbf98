public import KVLayout
public import RemoteG2Core

/// What every rank does in one step. All that a rank ever learns.
public struct StepPlan: Equatable, Codable, Sendable {
  public let sequence: UInt64
  public let orders: [RankOrder]
  public let spans: [SequenceSpan]
  /// Of requests that may end with this step: each rank reports the digest of what it holds.
  public let digests: [KVDigestOrder]
  /// The group ends after this step.
  public let isLast: Bool

  public init(
    sequence: UInt64, orders: [RankOrder], spans: [SequenceSpan], digests: [KVDigestOrder] = [],
    isLast: Bool = false
  ) {
    self.sequence = sequence
    self.orders = orders
    self.spans = spans
    self.digests = digests
    self.isLast = isLast
  }
}

/// The KV of a sequence's first `tokens` tokens.
public struct KVDigestOrder: Equatable, Codable, Sendable {
  public let blocks: [Int32]
  public let tokens: Int

  public init(blocks: [Int32], tokens: Int) {
    self.blocks = blocks
    self.tokens = tokens
  }
}

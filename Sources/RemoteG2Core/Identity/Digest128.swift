/// The content digest of one block on one rank (XXH3-128), seeded with the block's key and the rank, so
/// that right bytes under a wrong name do not have it. The source computes it from its slot's bytes when
/// it seals the block.
public struct Digest128: Hashable, Codable, Sendable, CustomStringConvertible {
  public let high: UInt64
  public let low: UInt64

  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  public var description: String { hexText(high) + hexText(low) }
}

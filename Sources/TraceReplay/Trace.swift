public import RemoteG2Core

/// What a trace of a production says of one request: when it came, and its prompt's blocks.
public struct TraceRequest: Equatable, Sendable {
  public let milliseconds: Int64
  public let keys: [BlockKey]

  /// - Parameter ids: One for each block of the prompt; equal ids are equal prefixes.
  public init(milliseconds: Int64, ids: [UInt64]) {
    self.milliseconds = milliseconds
    keys = ids.map { id in
      // As evenly spread as the digests that keys are elsewhere.
      BlockKey(high: Self.spread(id), low: Self.spread(id ^ 0x5555_5555_5555_5555))
    }
  }

  /// SplitMix64's last step.
  private static func spread(_ value: UInt64) -> UInt64 {
    var mixed = value &+ 0x9E37_79B9_7F4A_7C15
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
  }
}

import RemoteG2Core

/// All chance of one run, from its seed (SplitMix64). Two runs of one seed draw the same numbers.
package struct Chance: RandomNumberGenerator, Sendable {
  private var state: UInt64

  package init(seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 ^ 0xD1B5_4A32_D192_ED03 }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// From 0 to `count - 1`.
  package mutating func below(_ count: Int) -> Int { Int(next() % UInt64(max(1, count))) }
  package mutating func between(_ range: ClosedRange<Int>) -> Int {
    range.lowerBound + below(range.count)
  }
  /// From 0 to 1.
  package mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
  package mutating func happens(_ probability: Double) -> Bool { unit() < probability }
  package mutating func duration(_ range: ClosedRange<Duration>) -> Duration {
    let (low, high) = (range.lowerBound.inSeconds, range.upperBound.inSeconds)
    return .nanoseconds(Int64((low + (high - low) * unit()) * 1e9))
  }
  package mutating func pick<Value>(_ values: [Value]) -> Value { values[below(values.count)] }
}

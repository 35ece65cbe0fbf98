/// An instant on one process's monotonic clock. To another process only differences mean anything.
public struct LocalInstant: Hashable, Comparable, Codable, Sendable {
  public let nanoseconds: Int64
  public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
  public static func + (a: Self, b: Duration) -> Self {
    Self(nanoseconds: a.nanoseconds + b.nanoseconds)
  }
  public static func - (a: Self, b: Self) -> Duration {
    .nanoseconds(a.nanoseconds - b.nanoseconds)
  }
}

extension Duration {
  /// Whole nanoseconds; saturates beyond 292 years.
  public var nanoseconds: Int64 {
    let (seconds, attoseconds) = components
    let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
    if overflow { return seconds < 0 ? .min : .max }
    return product + attoseconds / 1_000_000_000
  }
  /// Seconds as a floating-point number, for reports and estimates.
  public var inSeconds: Double { Double(nanoseconds) / 1e9 }
}

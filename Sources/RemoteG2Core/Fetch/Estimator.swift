/// Running estimates of what a pull and a recompute would cost, per peer. Exponentially weighted;
/// values in, values out.
public struct Estimator: Sendable {
  /// Weight of a new observation.
  private static let weight = 0.25

  /// Prefill speed of this engine.
  public private(set) var prefillTokensPerSecond: Double
  private var bytesPerSecond: [SourceName: Double] = [:]
  private var roundTrip: [SourceName: Double] = [:]
  private let bytesPerSecondInitial: Double
  private let roundTripInitial = 0.002

  /// - Parameters:
  ///   - prefillTokensPerSecond: Before anything was measured.
  ///   - bytesPerSecond: For a source never read from.
  public init(prefillTokensPerSecond: Double = 200, bytesPerSecond: Double = 100e6) {
    precondition(prefillTokensPerSecond > 0 && bytesPerSecond > 0, "rates are positive")
    self.prefillTokensPerSecond = prefillTokensPerSecond
    bytesPerSecondInitial = bytesPerSecond
  }

  public mutating func prefilled(tokens: Int, in duration: Duration) {
    let seconds = duration.inSeconds
    guard tokens >= 16, seconds > 0 else { return }
    prefillTokensPerSecond += Self.weight * (Double(tokens) / seconds - prefillTokensPerSecond)
  }

  public mutating func moved(bytes: Int, from source: SourceName, in duration: Duration) {
    let seconds = duration.inSeconds
    guard bytes > 0, seconds > 0 else { return }
    let rate = Double(bytes) / seconds
    let old = bytesPerSecond[source] ?? rate
    bytesPerSecond[source] = old + Self.weight * (rate - old)
  }

  /// The source answered a question after this long.
  public mutating func answered(_ source: SourceName, after duration: Duration) {
    let old = roundTrip[source] ?? duration.inSeconds
    roundTrip[source] = old + Self.weight * (duration.inSeconds - old)
  }

  /// Nothing was pulled because it looked too slow. Each time it is believed a little less, so that a
  /// source which was slow once is tried again.
  public mutating func declined(_ source: SourceName) {
    bytesPerSecond[source] = bytesPerSecond[source].map { $0 + 0.05 * (bytesPerSecondInitial - $0) }
    roundTrip[source] = roundTrip[source].map { $0 + 0.05 * (roundTripInitial - $0) }
  }

  /// Forgets a source that has gone, so that the table holds live names only.
  public mutating func forget(_ source: SourceName) {
    bytesPerSecond[source] = nil
    roundTrip[source] = nil
  }

  public func recomputeTime(tokens: Int) -> Duration {
    .nanoseconds(Int64(Double(tokens) / prefillTokensPerSecond * 1e9))
  }

  public func moveTime(bytes: Int, from source: SourceName) -> Duration {
    let rate = bytesPerSecond[source] ?? bytesPerSecondInitial
    return .nanoseconds(Int64(Double(bytes) / rate * 1e9))
  }

  /// Estimated time from asking to settled: two questions, and the bytes, over `lanes` transfers at
  /// once.
  public func pullTime(bytes: Int, from source: SourceName, lanes: Int) -> Duration {
    let asking = 2 * (roundTrip[source] ?? roundTripInitial)
    return .nanoseconds(Int64(asking * 1e9)) + moveTime(bytes: bytes, from: source) / max(1, lanes)
  }
}

import RemoteG2Runtime
import WorkerConsole

/// What a worker's traced transfers prove, on the one clock that all processes of a machine share.
extension WorkerProcess {
  /// Bytes that had landed at `instant`.
  func landedBytes(at instant: Int64 = .max) -> Int {
    trace.filter { $0.moment == "landed" && $0.at <= instant }.reduce(0) { $0 + $1.bytes }
  }

  /// Whether a transfer was posted and not terminal at `instant`.
  func wasInFlight(at instant: Int64) -> Bool {
    let posted = trace.filter { $0.moment == "posted" && $0.at <= instant }
    return posted.contains { start in
      !trace.contains {
        $0.fetch == start.fetch && $0.ordinal == start.ordinal && $0.at <= instant
          && ($0.moment == "landed" || $0.moment == "failed")
      }
    }
  }

  /// Leading blocks whose transfers had landed at `instant`: what digests can prove.
  func leadingLanded(at instant: Int64, blockBytes: Int) -> Int {
    let landed = trace.filter { $0.moment == "landed" && $0.at <= instant }
      .sorted { $0.ordinal < $1.ordinal }
    var count = 0
    for (index, transfer) in landed.enumerated() {
      guard transfer.ordinal == index else { break }
      count += transfer.bytes / blockBytes
    }
    return count
  }

  /// From the first post to the last landing.
  var pullSeconds: Double? {
    guard let first = trace.map(\.at).min(),
      let last = trace.filter({ $0.moment == "landed" }).map(\.at).max(), last > first
    else { return nil }
    return Double(last - first) / 1e9
  }
}

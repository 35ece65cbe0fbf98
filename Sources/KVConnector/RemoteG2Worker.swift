public import KVTransfer
public import RemoteG2Core

/// The worker half: hands orders to its rank's pump, and the pump's news to the leader.
public final class RemoteG2Worker: WorkerConnector {
  private let pump: any PumpPort
  private let onTrace: (TransferTrace) -> Void
  private var loadErrors: [BlockIndex] = []

  /// - Parameter onTrace: Told every transfer's moments while the pump traces.
  public init(pump: any PumpPort, onTrace: @escaping (TransferTrace) -> Void = { _ in }) {
    self.pump = pump
    self.onTrace = onTrace
  }

  public func begin(_ orders: [RankOrder]) {
    for order in orders { pump.post(.rank(order)) }
  }

  public func end(rank: Int, sequence: UInt64) -> RankReport {
    let news = pump.takeReport()
    for moment in news.trace { onTrace(moment) }
    var report = RankReport(rank: rank, sequence: sequence)
    report.progress = news.progress
    loadErrors += news.loadErrors
    report.saved = news.saved
    report.bytesMoved = news.moved
    report.attached = news.attached.mapValues { $0 == nil }
    return report
  }

  public func takeLoadErrors() -> [BlockIndex] {
    let taken = loadErrors
    loadErrors = []
    return taken
  }

  public func abort(_ fetch: FetchID) { pump.post(.rank(.stopPosting(fetch))) }
}

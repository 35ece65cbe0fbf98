internal import KVConnector
package import KVTransfer
package import RemoteG2Core

/// A worker half over a pump core without a thread.
package final class ToyWorker: WorkerConnector {
  package let pump: PumpCore
  package let clock: () -> LocalInstant
  private var loadErrors: [BlockIndex] = []
  /// How many times each block was named, over all steps.
  package private(set) var errorCounts: [BlockIndex: Int] = [:]
  package init(_ pump: PumpCore, clock: @escaping () -> LocalInstant) {
    self.pump = pump
    self.clock = clock
  }

  package func begin(_ orders: [RankOrder]) {
    for order in orders { pump.handle(.rank(order), at: clock()) }
  }

  package func end(rank: Int, sequence: UInt64) -> RankReport {
    _ = pump.run(at: clock())
    let news = pump.takeReport()
    var report = RankReport(rank: rank, sequence: sequence)
    report.progress = news.progress
    report.saved = news.saved
    report.attached = news.attached.mapValues { $0 == nil }
    loadErrors += news.loadErrors
    return report
  }

  package func takeLoadErrors() -> [BlockIndex] {
    let taken = loadErrors
    loadErrors = []
    for block in taken { errorCounts[block, default: 0] += 1 }
    return taken
  }
}

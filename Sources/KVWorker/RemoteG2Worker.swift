public import KVConnector
public import KVTransfer
public import RemoteG2Core

/// The worker half: hands orders to its rank's pump, and the pump's news to the leader.
public final class RemoteG2Worker: WorkerConnector {
  private let pump: any PumpPort
  private let rank: Int
  private let open: (SourceID, SourceAddress) -> SourceDescription?
  private var loadErrors: [BlockIndex] = []
  /// Numbers of the orders whose address could not be opened, since the last report.
  private var unopened: [UInt64] = []

  /// - Parameters:
  ///   - rank: Which of an order's addresses are its own.
  ///   - open: Makes a source's address readable in this process; nil when it is gone already.
  public init(
    pump: any PumpPort, rank: Int = 0,
    open: @escaping (SourceID, SourceAddress) -> SourceDescription? = { _, _ in nil }
  ) {
    self.pump = pump
    self.rank = rank
    self.open = open
  }

  public func begin(_ orders: [RankOrder]) {
    for order in orders {
      switch order {
      case .attach(let number, let source, let addresses):
        if addresses.indices.contains(rank), let description = open(source, addresses[rank]) {
          pump.post(.attach(number, source, description))
        } else {
          unopened.append(number)
        }
      case .load, .stopPosting, .checkDigests, .forget, .stage, .sourceDied, .rig:
        pump.post(.rank(order))
      }
    }
  }

  public func end(rank: Int, sequence: UInt64) -> RankReport {
    let news = pump.takeReport()
    var report = RankReport(rank: rank, sequence: sequence)
    report.progress = news.progress
    loadErrors += news.loadErrors
    report.stagings = news.stagings
    report.unlinked = news.unlinked
    report.bytesMoved = news.moved
    // An empty dictionary that is mapped is allocated.
    if !news.attached.isEmpty { report.attached = news.attached.mapValues { $0 == nil } }
    for number in unopened { report.attached[number] = false }
    unopened = []
    report.counts = pump.stats.counts
    return report
  }

  public func takeLoadErrors() -> [BlockIndex] {
    let taken = loadErrors
    loadErrors = []
    return taken
  }

  public func abort(_ fetch: FetchID) { pump.post(.rank(.stopPosting(fetch))) }
}

internal import KVConnector
package import KVTransfer
internal import KVWorker
package import RemoteG2Core

/// The shipped worker half over a pump core without a thread, which works when it is asked for news.
package final class ToyWorker: WorkerConnector {
  private final class CorePump: PumpPort, @unchecked Sendable {
    // @unchecked: used by its rank's step thread alone.
    let core: PumpCore
    let clock: ToyClock

    init(_ core: PumpCore, clock: ToyClock) {
      self.core = core
      self.clock = clock
    }

    func post(_ order: PumpOrder) { core.handle(order, at: clock.now) }

    func takeReport() -> PumpReport {
      _ = core.run(at: clock.now)
      return core.takeReport()
    }

    var stats: PumpStats { core.stats }
  }

  private let shipped: RemoteG2Worker
  /// How many times each block was named, over all steps.
  package private(set) var errorCounts: [BlockIndex: Int] = [:]

  /// - Parameter open: As the shipped worker half takes it.
  package init(
    _ pump: PumpCore, clock: ToyClock, rank: Int = 0,
    open: @escaping (SourceID, SourceAddress) -> SourceDescription? = { _, _ in nil }
  ) {
    shipped = RemoteG2Worker(pump: CorePump(pump, clock: clock), rank: rank, open: open)
  }

  package func begin(_ orders: [RankOrder]) { shipped.begin(orders) }

  package func end(rank: Int, sequence: UInt64) -> RankReport {
    shipped.end(rank: rank, sequence: sequence)
  }

  package func takeLoadErrors() -> [BlockIndex] {
    let taken = shipped.takeLoadErrors()
    for block in taken { errorCounts[block, default: 0] += 1 }
    return taken
  }

  package func abort(_ fetch: FetchID) { shipped.abort(fetch) }
}

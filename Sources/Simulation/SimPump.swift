import KVTransfer
import RemoteG2Core
import TransferRig

/// A rank's pump: the shipped core, turned by the world instead of by a thread.
final class SimPump: PumpPort, @unchecked Sendable {
  // @unchecked: one simulation, one thread.
  let core: PumpCore
  let memory: MemoryTransport
  let faulty: FaultyTransport
  private var orders: [PumpOrder] = []
  private var report = PumpReport()
  /// Called when an order came.
  var onOrder: () -> Void = {}
  /// How long it sleeps when nothing moves; grows while nothing does.
  var nap: Duration = .microseconds(100)
  /// A planned turn counts only if its number is still this.
  var turnToken = 0

  init(core: PumpCore, memory: MemoryTransport, faulty: FaultyTransport) {
    self.core = core
    self.memory = memory
    self.faulty = faulty
  }

  func post(_ order: PumpOrder) {
    orders.append(order)
    onOrder()
  }

  var stats: PumpStats { core.stats }

  func takeReport() -> PumpReport {
    defer { report = PumpReport() }
    return report
  }

  /// One turn of the pump's loop.
  ///
  /// - Returns: Whether it did something, and whether it has something to tell.
  func turn(at now: LocalInstant) -> (didWork: Bool, hasNews: Bool) {
    let arrived = orders
    orders = []
    for order in arrived { core.handle(order, at: now) }
    let didWork = core.run(at: now)
    let news = core.takeReport()
    report.merge(news)
    return (didWork || !arrived.isEmpty, !news.isEmpty)
  }

  var isIdle: Bool { core.isIdle && orders.isEmpty }
}

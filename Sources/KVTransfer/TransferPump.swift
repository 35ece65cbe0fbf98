public import OSThreads
internal import RemoteG2Core
internal import Synchronization

/// The thread that owns a rank's transports. Nobody else touches them, and it waits for nobody.
///
/// While bytes come it spins; when none do it sleeps, 0.1 ms growing to 1 ms, or to 5 ms when only
/// loads are in flight that were given up; with nothing to do it waits for an order.
public final class TransferPump: PumpPort {
  private struct Shared {
    var report = PumpReport()
    var stats = PumpStats()
    var isStopping = false
  }

  private static let napMin: Duration = .microseconds(100)
  private static let napMax: Duration = .milliseconds(1)
  /// When what is in flight was given up: its end only frees memory.
  private static let napUnawaitedMax: Duration = .milliseconds(5)

  private let shared = Mutex(Shared())
  private let doorbell = Doorbell()
  private let orders: Mailbox<PumpOrder>
  /// Rung when there is something new to report.
  private let listener: Doorbell
  private let thread: Mutex<OSThread?> = Mutex(nil)

  /// - Parameter makeCore: Runs on the pump's own thread, where the core then stays.
  public init(
    name: String, ringing listener: Doorbell, makeCore: @escaping @Sendable () -> PumpCore
  ) {
    self.listener = listener
    orders = Mailbox(ringing: doorbell)
    let started = OSThread.start(name) { [self] in loop(makeCore()) }
    thread.withLock { $0 = started }
  }

  public func post(_ order: PumpOrder) { orders.post(order) }

  /// Everything that happened since the last call.
  public func takeReport() -> PumpReport {
    shared.withLock { shared in
      let taken = shared.report
      shared.report = PumpReport()
      return taken
    }
  }

  public var stats: PumpStats { shared.withLock { $0.stats } }

  /// Ends the thread and, with it, everything posted: after this nothing writes the target again.
  public func stop() {
    shared.withLock { $0.isStopping = true }
    doorbell.ring()
    thread.withLock { $0.take() }?.join()
  }

  private func loop(_ core: PumpCore) {
    var nap = Self.napMin
    while true {
      let now = MonotonicClock.now()
      let arrived = orders.drain()
      for order in arrived { core.handle(order, at: now) }
      let didWork = core.run(at: now)
      let isStopping: Bool
      if didWork || !arrived.isEmpty {
        let report = core.takeReport()
        let stats = core.stats
        isStopping = shared.withLock { shared in
          shared.report.merge(report)
          shared.stats = stats
          return shared.isStopping
        }
        if !report.isEmpty { listener.ring() }
      } else {
        // Nothing happened, a thousand times a second: there is nothing to tell.
        isStopping = shared.withLock { $0.isStopping }
      }
      if isStopping {
        core.shutDown()
        return
      }
      if didWork || !arrived.isEmpty {
        nap = Self.napMin
        continue
      }
      let idle: Duration = core.isIdle ? .seconds(3600) : nap
      doorbell.wait(until: MonotonicClock.now() + idle)
      nap = min(nap * 2, core.isAwaited ? Self.napMax : Self.napUnawaitedMax)
    }
  }
}

public import OSThreads
internal import RemoteG2Core
internal import Synchronization

/// The thread that owns a rank's transports. Nobody else touches them, and it waits for nobody.
///
/// While bytes come it spins; when none do it sleeps as ``PumpNaps`` says.
public final class TransferPump: PumpPort {
  private struct Shared {
    var report = PumpReport()
    var stats = PumpStats()
    var isStopping = false
  }

  private let shared = Mutex(Shared())
  private let bell = EventBell()
  private let orders: Mailbox<PumpOrder>
  /// Rung when there is something new to report.
  private let listener: any Bell
  private let thread: Mutex<OSThread?> = Mutex(nil)

  /// - Parameter makeCore: Runs on the pump's own thread, where the core then stays.
  public init(
    name: String, ringing listener: any Bell, makeCore: @escaping @Sendable () -> PumpCore
  ) {
    self.listener = listener
    orders = Mailbox(ringing: bell)
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
    bell.ring()
    thread.withLock { $0.take() }?.join()
  }

  private func loop(_ core: PumpCore) {
    var naps = PumpNaps()
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
        naps.worked()
        continue
      }
      let slept = MonotonicClock.now()
      let descriptors = core.eventDescriptors
      switch naps.next(isIdle: core.isIdle, canHear: descriptors != nil) {
      case .deaf(let nap): _ = bell.wait(until: slept + nap)
      case .hearing(let nap):
        switch bell.wait(until: slept + nap, hearing: descriptors ?? []) {
        case .descriptor: naps.woke(by: .descriptor)
        case .ring: naps.woke(by: .order)
        case .nothing: naps.woke(by: .time)
        }
      }
    }
  }
}

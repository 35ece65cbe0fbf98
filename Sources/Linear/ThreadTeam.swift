internal import Glibc
internal import OSThreads
internal import RemoteG2Core
internal import Synchronization

/// A few threads that share one loop at a time with their caller.
///
/// Who computes which part is left to chance; the kernels' results do not depend on it.
public final class ThreadTeam: Sendable {
  private final class Shared: @unchecked Sendable {
    // @unchecked: `body`, `count` and `grain` are written before `generation` is released and read
    // after it is acquired; `run` does not return before every worker has left them.
    var body: ((Range<Int>) -> Void)?
    var count = 0
    var grain = 1
    let generation = Atomic<Int>(0)
    let next = Atomic<Int>(0)
    let working = Atomic<Int>(0)
    let isStopping = Atomic<Bool>(false)
  }

  /// Turns a worker looks for work before it sleeps: about the time between two layers' loops.
  private static let spinTurns = 4_000

  private let shared = Shared()
  private let doorbells: [Doorbell]
  private let threads: Mutex<[OSThread]>
  /// Threads that compute, the caller included.
  public let threadCount: Int

  /// - Parameter threads: 1 starts none and computes on the caller.
  public init(threads count: Int) {
    precondition(count >= 1, "someone has to compute")
    threadCount = count
    let bells = (1..<count).map { _ in Doorbell() }
    doorbells = bells
    let shared = shared
    threads = Mutex(
      bells.enumerated().map { index, bell in
        // Yields to the pump and to control, which must answer while it computes.
        OSThread.start("linear-\(index + 1)", nice: 5) { Self.work(shared, bell) }
      })
  }

  /// Calls `body` with ranges that cover `0..<count` once each, on all threads, and returns when all
  /// are done. One caller at a time.
  public func run(_ count: Int, grain: Int, _ body: (Range<Int>) -> Void) {
    precondition(grain > 0, "a range of nothing never ends")
    if doorbells.isEmpty || count <= grain {
      if count > 0 { body(0..<count) }
      return
    }
    withoutActuallyEscaping(body) { body in
      shared.body = body
      shared.count = count
      shared.grain = grain
      shared.next.store(0, ordering: .relaxed)
      shared.working.store(doorbells.count, ordering: .relaxed)
      shared.generation.wrappingAdd(1, ordering: .releasing)
      for bell in doorbells { bell.ring() }
      Self.take(shared, body)
      while shared.working.load(ordering: .acquiring) > 0 { sched_yield() }
      shared.body = nil
    }
  }

  public func stop() {
    shared.isStopping.store(true, ordering: .releasing)
    for bell in doorbells { bell.ring() }
    let ended = threads.withLock { threads in
      let all = threads
      threads = []
      return all
    }
    for thread in ended { thread.join() }
  }

  private static func take(_ shared: Shared, _ body: (Range<Int>) -> Void) {
    while true {
      let first = shared.next.wrappingAdd(shared.grain, ordering: .relaxed).oldValue
      if first >= shared.count { return }
      body(first..<min(first + shared.grain, shared.count))
    }
  }

  private static func work(_ shared: Shared, _ doorbell: Doorbell) {
    var seen = 0
    while !shared.isStopping.load(ordering: .acquiring) {
      var turns = 0
      while shared.generation.load(ordering: .acquiring) == seen, turns < spinTurns {
        turns += 1
      }
      guard shared.generation.load(ordering: .acquiring) != seen else {
        doorbell.wait(atMost: .seconds(3600))
        continue
      }
      seen += 1
      if let body = shared.body { take(shared, body) }
      shared.working.wrappingSubtract(1, ordering: .releasing)
    }
  }
}

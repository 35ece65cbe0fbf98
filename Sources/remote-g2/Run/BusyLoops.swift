import OSThreads
import Synchronization

/// Threads that do nothing but take processor time from everybody else.
final class BusyLoops: Sendable {
  private let isOver = Atomic(false)

  /// Runs something beside `count` busy loops.
  static func beside<Value>(_ count: Int, _ run: () throws -> Value) rethrows -> Value {
    let loops = BusyLoops()
    let threads = (0..<count).map { index in
      OSThread.start("busy-\(index)") {
        while !loops.isOver.load(ordering: .relaxed) {}
      }
    }
    defer {
      loops.isOver.store(true, ordering: .relaxed)
      for thread in threads { thread.join() }
    }
    return try run()
  }
}

import OSThreads
import Synchronization

/// Threads that do nothing but take processor time from everybody else.
final class BusyLoops: Sendable {
  private let isOver = Atomic(false)

  init(_ count: Int) {
    for index in 0..<count {
      _ = OSThread.start("busy-\(index)") { [self] in
        while !isOver.load(ordering: .relaxed) {}
      }
    }
  }

  /// Runs something beside `count` busy loops.
  static func beside<Value>(_ count: Int, _ run: () throws -> Value) rethrows -> Value {
    let loops = BusyLoops(count)
    defer { loops.isOver.store(true, ordering: .relaxed) }
    return try run()
  }
}

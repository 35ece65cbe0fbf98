import RemoteG2Core

/// What every simulated world is: chance, a clock, and one queue of events.
class World {
  var chance: Chance
  /// In nanoseconds.
  var now: Int64 = 0
  /// What happens when.
  var queue = DeadlineHeap<Int64, () -> Void>()
  private(set) var steps = 0
  private(set) var trace: UInt64 = 0xCBF2_9CE4_8422_2325
  var isHealed = false
  var violation: Violation?

  init(chance: Chance) { self.chance = chance }

  func plan(after delay: Duration, _ run: @escaping () -> Void) {
    queue.insert(run, due: now + max(0, delay.nanoseconds))
  }

  /// Delivers one event. False when there is none.
  func step() -> Bool {
    guard let entry = queue.popFirst() else { return false }
    now = max(now, entry.deadline)
    steps += 1
    note(UInt64(bitPattern: now))
    entry.value()
    return true
  }

  /// Adds to the trace by which two runs are compared.
  func note(_ word: UInt64) { trace = (trace ^ word) &* 0x0000_0100_0000_01B3 }

  func violate(_ invariant: Invariant, _ what: @autoclosure () -> String) {
    guard violation == nil else { return }
    violation = Violation(invariant: invariant, what: what(), step: steps)
  }
}

/// Planned events in the order of their time, and of their planning.
struct EventQueue {
  struct Entry {
    let at: Int64
    let order: UInt64
    let run: () -> Void
  }

  private var entries: [Entry] = []
  private var orderNext: UInt64 = 0

  mutating func plan(at time: Int64, _ run: @escaping () -> Void) {
    entries.append(Entry(at: time, order: orderNext, run: run))
    orderNext += 1
    var child = entries.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard Self.precedes(entries[child], entries[parent]) else { break }
      entries.swapAt(child, parent)
      child = parent
    }
  }

  mutating func pop() -> Entry? {
    guard let top = entries.first else { return nil }
    let last = entries.removeLast()
    guard !entries.isEmpty else { return top }
    entries[0] = last
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2]
      where child < entries.count && Self.precedes(entries[child], entries[least]) {
        least = child
      }
      if least == parent { return top }
      entries.swapAt(parent, least)
      parent = least
    }
  }

  private static func precedes(_ a: Entry, _ b: Entry) -> Bool {
    (a.at, a.order) < (b.at, b.order)
  }
}

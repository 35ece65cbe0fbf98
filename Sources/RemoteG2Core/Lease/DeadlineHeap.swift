/// Serials ordered by deadline, not by insertion: a renewed entry never hides a due one behind it.
package struct DeadlineHeap: Sendable {
  package struct Entry: Equatable, Sendable {
    package let deadline: LocalInstant
    package let serial: UInt64
  }

  private var entries: [Entry] = []

  package init() {}

  package var first: Entry? { entries.first }
  package var count: Int { entries.count }

  package mutating func insert(_ serial: UInt64, due deadline: LocalInstant) {
    entries.append(Entry(deadline: deadline, serial: serial))
    var child = entries.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard Self.precedes(entries[child], entries[parent]) else { break }
      entries.swapAt(child, parent)
      child = parent
    }
  }

  package mutating func popFirst() -> Entry? {
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
    (a.deadline, a.serial) < (b.deadline, b.serial)
  }
}

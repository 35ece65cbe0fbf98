/// Values ordered by deadline, and by insertion among equal ones: a renewed entry never hides a due one
/// behind it.
package struct DeadlineHeap<Deadline: Comparable, Value> {
  package struct Entry {
    package let deadline: Deadline
    package let value: Value
    fileprivate let order: UInt64
  }

  private var entries: [Entry] = []
  private var orderNext: UInt64 = 0

  package init() {}

  package var first: Entry? { entries.first }
  package var count: Int { entries.count }

  package mutating func insert(_ value: Value, due deadline: Deadline) {
    entries.append(Entry(deadline: deadline, value: value, order: orderNext))
    orderNext += 1
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
    (a.deadline, a.order) < (b.deadline, b.order)
  }
}

extension DeadlineHeap where Deadline == LocalInstant, Value == FetchID {
  /// ``first`` in the terms of a step: compiled for these types, it allocates nothing.
  package var firstDue: (fetch: FetchID, at: LocalInstant)? {
    entries.first.map { ($0.value, $0.deadline) }
  }
}

extension DeadlineHeap: Sendable where Deadline: Sendable, Value: Sendable {}
extension DeadlineHeap.Entry: Sendable where Deadline: Sendable, Value: Sendable {}

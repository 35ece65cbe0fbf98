/// The keys most lately inserted and not removed since, up to a bound.
///
/// A key that is removed and inserted again counts from its last insertion.
package struct RecentKeys: Sendable {
  private let countMax: Int
  /// The number of its last insertion, by key.
  private var numbers: [BlockKey: UInt64] = [:]
  /// Oldest first from `head` on; an entry whose number is not its key's was removed since.
  private var queue: [(key: BlockKey, number: UInt64)] = []
  private var head = 0
  private var numberNext: UInt64 = 0

  package init(countMax: Int) {
    precondition(countMax > 0)
    self.countMax = countMax
  }

  package func contains(_ key: BlockKey) -> Bool { numbers[key] != nil }

  package mutating func insert(_ key: BlockKey) {
    guard numbers[key] == nil else { return }
    numbers[key] = numberNext
    queue.append((key, numberNext))
    numberNext += 1
    if queue.count - head > countMax {
      let oldest = queue[head]
      head += 1
      if numbers[oldest.key] == oldest.number { numbers[oldest.key] = nil }
    }
    if head > countMax {
      queue.removeFirst(head)
      head = 0
    }
  }

  package mutating func remove(_ key: BlockKey) { numbers[key] = nil }
}

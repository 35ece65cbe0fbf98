/// What a node tells its watchers: every change of what it holds, in numbered batches, for as long as it
/// remembers them.
///
/// A watcher that is new remembers the number, reads everything that is sealed piece by piece, and then every
/// change since: what changed meanwhile it hears twice, which changes nothing.
package struct Feed: Sendable {
  package enum Next: Equatable, Sendable {
    case batch(number: UInt64, [FeedChange])
    case upToDate
    /// What the watcher needs is forgotten: it was too slow.
    case forgotten
  }

  /// Of one message.
  package static let changesPerBatch = 2048

  private let changesMax: Int
  /// The newest ones; the last has the number `number`.
  private var batches: [[FeedChange]] = []
  private var head = 0
  private var changeCount = 0
  /// Of the newest batch; 0 before the first.
  package private(set) var number: UInt64 = 0

  /// - Parameter changesMax: How many changes are remembered.
  package init(changesMax: Int) { self.changesMax = changesMax }

  package mutating func note(_ changes: [FeedChange]) {
    for first in stride(from: 0, to: changes.count, by: Self.changesPerBatch) {
      let batch = Array(changes[first..<min(first + Self.changesPerBatch, changes.count)])
      batches.append(batch)
      changeCount += batch.count
      number += 1
    }
    while changeCount > changesMax, head < batches.count - 1 {
      changeCount -= batches[head].count
      batches[head] = []
      head += 1
    }
    if head > 1024, head * 2 > batches.count {
      batches.removeFirst(head)
      head = 0
    }
  }

  /// The batch after that of `last`.
  package func next(after last: UInt64) -> Next {
    guard last < number else { return .upToDate }
    let behind = Int(number - last)
    guard behind <= batches.count - head else { return .forgotten }
    return .batch(number: last + 1, batches[batches.count - behind])
  }
}

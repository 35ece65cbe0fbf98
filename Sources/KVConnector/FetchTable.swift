import RemoteG2Core

/// The open fetches, and which of them has something to decide when.
///
/// A step costs what has changed, not what is open: a fetch that waits is not looked at.
struct FetchTable {
  private(set) var records: [FetchID: FetchRecord] = [:]
  /// By their next deadlines. An entry counts only while it is its record's.
  private var deadlines = DeadlineHeap<LocalInstant, FetchID>()
  /// Fetches that have not settled.
  private(set) var unsettledCount = 0

  var count: Int { records.count }
  subscript(_ id: FetchID) -> FetchRecord? { records[id] }

  mutating func insert(_ record: FetchRecord) {
    records[record.machine.id] = record
    unsettledCount += 1
    note(record)
  }

  /// Its machine has moved: its deadline may have too.
  mutating func note(_ record: FetchRecord) {
    if !record.isCountedSettled, record.machine.isSettled {
      record.isCountedSettled = true
      unsettledCount -= 1
    }
    let next = record.machine.nextDeadline
    guard next != record.listedDeadline else { return }
    record.listedDeadline = next
    if let next { deadlines.insert(record.machine.id, due: next) }
  }

  mutating func remove(_ id: FetchID) { records[id] = nil }

  /// The fetches whose deadline has come, each once.
  mutating func takeDue(at now: LocalInstant) -> [FetchRecord] {
    guard let first = deadlines.firstDue, first.at <= now else { return [] }
    var due: [FetchRecord] = []
    while let entry = deadlines.first, entry.deadline <= now {
      _ = deadlines.popFirst()
      guard let record = records[entry.value], record.listedDeadline == entry.deadline else {
        continue
      }
      record.listedDeadline = nil
      due.append(record)
    }
    return due
  }

  /// Drops what counts no more from the front, so that the first is true.
  mutating func dropStale() {
    while let entry = deadlines.firstDue, records[entry.fetch]?.listedDeadline != entry.at {
      _ = deadlines.popFirst()
    }
  }

  var nextDeadline: LocalInstant? { deadlines.firstDue?.at }
}

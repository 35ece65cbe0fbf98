/// The open fetches, and which of them has something to decide when.
///
/// A step costs what has changed, not what is open: a fetch that waits is not looked at.
package struct FetchTable {
  package private(set) var records: [FetchID: FetchRecord] = [:]
  /// By their next deadlines. An entry counts only while it is its record's.
  private var deadlines = DeadlineHeap<LocalInstant, FetchID>()
  /// Fetches that have not settled.
  package private(set) var unsettledCount = 0
  /// Blocks on their way, by key: whoever else needs one waits for the same settle.
  private var loading: [BlockKey: FetchID] = [:]
  private var next: UInt64 = 1

  package init() {}

  package var count: Int { records.count }
  package subscript(_ id: FetchID) -> FetchRecord? { records[id] }

  /// Which fetch is loading a block.
  package func loader(of key: BlockKey) -> FetchID? { loading[key] }

  /// The name of the next fetch; none is given twice.
  package mutating func makeID() -> FetchID {
    defer { next += 1 }
    return FetchID(next)
  }

  package mutating func insert(_ record: FetchRecord) {
    let id = record.machine.id
    records[id] = record
    unsettledCount += 1
    for key in record.keys { loading[key] = loading[key] ?? id }
    note(record)
  }

  /// What it did not load, another may from now on.
  package mutating func settled(_ record: FetchRecord) {
    for key in record.keys where loading[key] == record.machine.id { loading[key] = nil }
  }

  /// Its machine has moved: its deadline may have too.
  package mutating func note(_ record: FetchRecord) {
    if !record.isCountedSettled, record.machine.isSettled {
      record.isCountedSettled = true
      precondition(unsettledCount > 0, "more fetches have settled than were begun")
      unsettledCount -= 1
    }
    let next = record.machine.nextDeadline
    guard next != record.listedDeadline else { return }
    record.listedDeadline = next
    if let next { deadlines.insert(record.machine.id, due: next) }
  }

  package mutating func remove(_ id: FetchID) { records[id] = nil }

  /// The fetches whose deadline has come, each once.
  package mutating func takeDue(at now: LocalInstant) -> [FetchRecord] {
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
  package mutating func dropStale() {
    while let entry = deadlines.firstDue, records[entry.fetch]?.listedDeadline != entry.at {
      _ = deadlines.popFirst()
    }
  }

  package var nextDeadline: LocalInstant? { deadlines.firstDue?.at }
}

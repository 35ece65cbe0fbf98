import RemoteG2Core
import Testing

@Suite struct `Open fetches` {
  static let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: 0) + .milliseconds(milliseconds)
  }
  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 1) }

  /// Adds a fetch that asks for keys until `due`.
  static func add(_ keys: Range<Int>, due: Int, to table: inout FetchTable) -> FetchRecord {
    let id = table.makeID()
    let machine = FetchMachine(
      id: id, request: RequestID(id.value),
      lease: LeaseID(
        serial: id.value, owner: source.incarnation, holder: Incarnation(high: 9, low: 9)),
      rankCount: 1, policy: .onFailure, at: at(0), resolveTimeout: .milliseconds(due),
      lateAfter: .seconds(99))
    let record = FetchRecord(
      machine: machine, request: RequestID(id.value), source: source, keys: keys.map(key), first: 0)
    table.insert(record)
    return record
  }

  /// Settles a fetch, as its connector would.
  static func settle(_ record: FetchRecord, in table: inout FetchTable) {
    _ = record.machine.cancelled()
    table.note(record)
    table.settled(record)
  }

  @Test func `those that are due are given once, the earliest first`() {
    var table = FetchTable()
    let records = [30, 10, 20].map { Self.add(0..<1, due: $0, to: &table) }
    #expect(records.map { $0.machine.id } == [FetchID(1), FetchID(2), FetchID(3)])
    #expect(table.nextDeadline == Self.at(10) && table.count == 3)
    var due = table.takeDue(at: Self.at(9)).map { $0.machine.id }
    #expect(due == [])
    due = table.takeDue(at: Self.at(20)).map { $0.machine.id }
    #expect(due == [FetchID(2), FetchID(3)])
    due = table.takeDue(at: Self.at(20)).map { $0.machine.id }
    #expect(due == [] && table.nextDeadline == Self.at(30))
    for record in records { Self.settle(record, in: &table) }
  }

  @Test func `a deadline that has moved counts, and the one it had does not`() {
    var table = FetchTable()
    let first = Self.add(0..<1, due: 10, to: &table)
    let second = Self.add(1..<2, due: 30, to: &table)
    _ = first.machine.resolveGranted(blocks: 1)
    table.note(first)
    _ = first.machine.bound(
      blocks: 1, at: Self.at(5),
      deadlines: FetchDeadlines(
        recomputePerBlock: .seconds(1), regret: 0, hard: .milliseconds(15), proof: .seconds(1)))
    table.note(first)
    table.dropStale()
    #expect(table.nextDeadline == Self.at(20))
    var due = table.takeDue(at: Self.at(19)).map { $0.machine.id }
    #expect(due == [])
    due = table.takeDue(at: Self.at(20)).map { $0.machine.id }
    #expect(due == [FetchID(1)])
    Self.settle(first, in: &table)
    Self.settle(second, in: &table)
    table.dropStale()
    #expect(table.nextDeadline == nil, "what has settled has no deadline")
  }

  @Test func `whoever loads a block first is its loader until it settles`() {
    var table = FetchTable()
    let first = Self.add(0..<3, due: 10, to: &table)
    let second = Self.add(2..<5, due: 10, to: &table)
    #expect(table.loader(of: Self.key(2)) == FetchID(1))
    #expect(table.loader(of: Self.key(4)) == FetchID(2) && table.loader(of: Self.key(5)) == nil)
    #expect(table.unsettledCount == 2)
    Self.settle(second, in: &table)
    #expect(table.loader(of: Self.key(2)) == FetchID(1) && table.loader(of: Self.key(4)) == nil)
    Self.settle(first, in: &table)
    #expect(table.loader(of: Self.key(2)) == nil)
    table.note(first)
    #expect(table.unsettledCount == 0 && table.count == 2)
    table.remove(FetchID(1))
    #expect(table.count == 1 && table[FetchID(1)] == nil && table[FetchID(2)] != nil)
  }
}

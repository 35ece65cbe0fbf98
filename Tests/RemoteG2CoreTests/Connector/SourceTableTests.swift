import RemoteG2Core
import Testing

@Suite struct `Which ranks can read which source` {
  static let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))

  @Test func `a source is asked once all of them can`() {
    var table = SourceTable(rankCount: 2)
    #expect(!table.isAttached(Self.source))
    let number = table.announced(Self.source)
    var failed = table.reported(number, true, by: 0)
    #expect(failed == nil && !table.isAttached(Self.source))
    failed = table.reported(number, true, by: 0)
    #expect(failed == nil && !table.isAttached(Self.source), "one rank said so twice")
    failed = table.reported(number, true, by: 1)
    #expect(failed == nil && table.isAttached(Self.source))
  }

  @Test func `a failure is told once, and what comes after it does not heal it`() {
    var table = SourceTable(rankCount: 2)
    let number = table.announced(Self.source)
    let first = table.reported(number, false, by: 1)
    let second = table.reported(number, false, by: 0)
    #expect(first == Self.source && second == nil)
    _ = table.reported(number, true, by: 0)
    _ = table.reported(number, true, by: 1)
    #expect(!table.isAttached(Self.source))
  }

  @Test func `an answer to an earlier announcement says nothing of the next`() {
    var table = SourceTable(rankCount: 1)
    let old = table.announced(Self.source)
    let new = table.announced(Self.source)
    #expect(old != new)
    var failed = table.reported(old, false, by: 0)
    #expect(failed == nil)
    failed = table.reported(old, true, by: 0)
    #expect(failed == nil && !table.isAttached(Self.source))
    failed = table.reported(new, true, by: 0)
    #expect(failed == nil && table.isAttached(Self.source))
  }

  @Test func `a source that died, or whose connection ended, is not asked`() {
    var table = SourceTable(rankCount: 1)
    let number = table.announced(Self.source)
    let early = table.unlinked(Self.source)
    #expect(!early, "it was not attached yet")
    _ = table.reported(number, true, by: 0)
    let first = table.unlinked(Self.source)
    let second = table.unlinked(Self.source)
    #expect(first && !second && !table.isAttached(Self.source))
    let next = table.announced(Self.source)
    _ = table.reported(next, true, by: 0)
    #expect(table.isAttached(Self.source))
    table.died(Self.source)
    let late = table.reported(next, false, by: 0)
    #expect(!table.isAttached(Self.source) && late == nil)
  }
}

import RemoteG2Core
import Testing

@Suite struct `A full quarantine` {
  static let p = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
  static let q = SourceID.peer(name: "Q", Incarnation(high: 2, low: 2))

  @Test func `is one source's at a quarter of G1, and for all at half of it`() {
    var quarantine = Quarantine(blockCount: 40, limits: Limits())
    quarantine.add(9, of: Self.p)
    #expect(!quarantine.isFull(for: Self.p))
    quarantine.add(1, of: Self.p)
    #expect(quarantine.isFull(for: Self.p) && !quarantine.isFull(for: Self.q))
    quarantine.add(9, of: Self.q)
    #expect(quarantine.count == 19 && !quarantine.isFull(for: Self.q))
    // Twenty of forty: whoever holds none is not asked either.
    quarantine.add(1, of: Self.q)
    #expect(quarantine.isFull(for: .peer(name: "R", Incarnation(high: 3, low: 3))))
  }

  @Test func `has room again when blocks go quiet, at the source that they were of`() {
    var quarantine = Quarantine(blockCount: 40, limits: Limits())
    quarantine.add(0, of: Self.p)
    quarantine.add(12, of: Self.p)
    quarantine.add(3, of: Self.q)
    quarantine.remove(3, of: Self.p)
    #expect(quarantine.count == 12 && !quarantine.isFull(for: Self.p))
    quarantine.remove(9, of: Self.p)
    quarantine.remove(3, of: Self.q)
    #expect(quarantine.count == 0)
  }
}

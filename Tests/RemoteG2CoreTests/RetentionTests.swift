import RemoteG2Core
import Testing

/// What is remembered of evicted blocks, and what follows from it.
@Suite struct `What a pool remembers` {
  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 2) }

  @Test
  func `gives new blocks more of the pool when one of them comes back, and less for an old one`() {
    var retention = Retention(slotCount: 100, limits: Limits())
    #expect(retention.probationSlots == 30)
    for number in 0..<10 { retention.noteEvicted(Self.key(number), wasProtected: false) }
    for number in 0..<10 { #expect(retention.noteReturned(Self.key(number)) == true) }
    #expect(abs(retention.share - 0.4) < 1e-9)
    for number in 0..<20 { retention.noteEvicted(Self.key(number), wasProtected: true) }
    for number in 0..<20 { #expect(retention.noteReturned(Self.key(number)) == true) }
    #expect(abs(retention.share - 0.2) < 1e-9)
    // It is here: nothing is remembered of it.
    #expect(retention.noteReturned(Self.key(0)) == false && abs(retention.share - 0.2) < 1e-9)
  }

  @Test
  func
    `learns nothing from what was evicted longer ago than the fleet has blocks, and protects it`()
  {
    var retention = Retention(slotCount: 10, limits: Limits())
    for number in 0..<11 { retention.noteEvicted(Self.key(number), wasProtected: false) }
    #expect(retention.noteReturned(Self.key(0)) == true && retention.share == 0.3)
    #expect(retention.noteReturned(Self.key(1)) == true && retention.share > 0.3)
    // More members, more blocks: each of them says less.
    let before = retention.share
    retention.noteFleet(announced: 990)
    #expect(retention.noteReturned(Self.key(2)) == true)
    #expect(abs(retention.share - before - 0.001) < 1e-9)
  }

  @Test func `leaves both kinds a part of the pool, whatever comes back`() {
    for (wasProtected, end) in [(true, 0.05), (false, 0.95)] {
      var retention = Retention(slotCount: 4, limits: Limits())
      for number in 0..<100 {
        retention.noteEvicted(Self.key(number), wasProtected: wasProtected)
        retention.noteReturned(Self.key(number))
      }
      #expect(abs(retention.share - end) < 1e-9)
    }
  }

  @Test func `remembers half as many of those that had been used again`() {
    var retention = Retention(slotCount: 1, limits: Limits { $0.evictionsRememberedPerBlock = 8 })
    for number in 0..<20 { retention.noteEvicted(Self.key(number), wasProtected: number % 2 == 0) }
    #expect(retention.rememberedCount == 12)
    // Evicted once more, from the other kind: it is remembered once.
    retention.noteEvicted(Self.key(19), wasProtected: true)
    #expect(retention.rememberedCount == 11)
    let found = (0..<20).filter { retention.noteReturned(Self.key($0)) }
    #expect(found == [5, 7, 9, 11, 13, 14, 15, 16, 17, 18, 19])
  }

  @Test(arguments: [(12, 1000, 12), (400, 7, 7), (0, 5, 0)])
  func `is bounded by the fleet and by its limit, and forgets the oldest first`(
    perBlock: Int, most: Int, kept: Int
  ) {
    var retention = Retention(
      slotCount: 1,
      limits: Limits {
        $0.evictionsRememberedPerBlock = perBlock
        $0.evictionsRememberedMax = most
      })
    for number in 0..<5000 {
      retention.noteEvicted(Self.key(number % 3000), wasProtected: false)
      #expect(retention.rememberedCount <= kept)
    }
    let found = (0..<3000).filter { retention.noteReturned(Self.key($0)) }
    #expect(found == Array((2000 - kept)..<2000))
  }
}

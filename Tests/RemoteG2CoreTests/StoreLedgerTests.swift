import RemoteG2Core
import Testing

@Suite struct `Store ledger` {
  static let start = LocalInstant(nanoseconds: 1_000)
  static let owner = Incarnation(high: 9, low: 9)

  static func keys(_ range: Range<Int>) -> [BlockKey] {
    range.map { BlockKey(high: UInt64($0), low: 1) }
  }

  /// A ledger whose first `count` keys are sealed.
  static func ledger(
    slots: Int = 16, sealed count: Int, ranks: Int = 1, limits: Limits = Limits()
  ) -> StoreLedger {
    var ledger = StoreLedger(
      incarnation: owner, slotCount: slots, rankCount: ranks, limits: limits)
    seal(&ledger, keys(0..<count), ranks: ranks)
    return ledger
  }

  static func seal(_ ledger: inout StoreLedger, _ keys: [BlockKey], ranks: Int = 1) {
    for (index, key) in keys.enumerated() {
      let parent = index > 0 ? keys[index - 1] : nil
      guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: parent) else {
        continue
      }
      ledger.pool.seal(
        slot, generation: generation,
        digests: (0..<ranks).map { _ in Digest128(high: key.high, low: 0) })
    }
  }

  static func granted(_ answer: ResolveAnswer) throws -> Grant {
    guard case .granted(let grant) = answer else { throw Refusal.invalid }
    return grant
  }

  @Test func `a grant is the longest sealed prefix, pinned`() throws {
    var ledger = Self.ledger(sealed: 5)
    let grant = try Self.granted(
      ledger.resolve(Self.keys(0..<9), ttl: .seconds(1), at: Self.start))
    #expect(grant.blocks.count == 5)
    #expect(ledger.stats.pinned == 5)
    #expect(ledger.stats.leases == 1 && ledger.stats.granted == 1)
  }

  @Test func `a pinned slot is never evicted, however great the pressure`() throws {
    var ledger = Self.ledger(slots: 8, sealed: 8)
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<6), ttl: nil, at: Self.start))
    Self.seal(&ledger, Self.keys(100..<150))
    #expect(ledger.confirm(grant.lease, at: Self.start) == .intact(6))
    #expect(ledger.pool.evictUnpinned() == 2)
  }

  @Test func `confirm counts the leading blocks that kept their generation, also after the end`()
    throws
  {
    var ledger = Self.ledger(slots: 8, sealed: 8)
    let grant = try Self.granted(
      ledger.resolve(Self.keys(0..<6), ttl: .seconds(1), at: Self.start))
    let late = Self.start + .seconds(2)
    #expect(ledger.confirm(grant.lease, at: late) == .intact(6))
    _ = ledger.pool.evictUnpinned()
    #expect(ledger.confirm(grant.lease, at: late) == .intact(6), "evicted, and not written yet")
    Self.seal(&ledger, Self.keys(100..<101))
    guard case .intact(let count) = ledger.confirm(grant.lease, at: late) else {
      Issue.record("the lease was forgotten within its TTL")
      return
    }
    #expect(count < 6)
  }

  @Test func `a renewal is refused after the deadline even if nothing has reaped`() throws {
    var ledger = Self.ledger(sealed: 2)
    let grant = try Self.granted(
      ledger.resolve(Self.keys(0..<2), ttl: .seconds(1), at: Self.start))
    #expect(
      ledger.renew(grant.lease, ttl: .seconds(1), at: Self.start + .milliseconds(999))
        == .renewed(ttl: .seconds(1)))
    #expect(ledger.renew(grant.lease, ttl: nil, at: Self.start + .milliseconds(1999)) == .gone)
    #expect(ledger.stats.pinned == 0)
  }

  @Test func `what is due first comes first, and of what is due together what came first`() {
    var heap = DeadlineHeap<Int, String>()
    for (value, due) in [("c", 30), ("a", 10), ("d", 30), ("b", 20)] {
      heap.insert(value, due: due)
    }
    var order = ""
    while let entry = heap.popFirst() { order += entry.value }
    #expect(order == "abcd")
  }

  @Test func `a renewed lease does not hide a due one behind it`() throws {
    var ledger = Self.ledger(sealed: 4)
    let first = try Self.granted(
      ledger.resolve(Self.keys(0..<2), ttl: .seconds(1), at: Self.start))
    let second = try Self.granted(
      ledger.resolve(Self.keys(0..<4), ttl: .seconds(2), at: Self.start))
    _ = ledger.renew(first.lease, ttl: .seconds(60), at: Self.start)
    ledger.expireDue(at: Self.start + .seconds(2))
    #expect(ledger.renew(second.lease, ttl: nil, at: Self.start + .seconds(2)) == .gone)
    #expect(ledger.stats.leases == 1)
  }

  @Test func `a lease that is renewed again and again is remembered once`() throws {
    var ledger = Self.ledger(sealed: 2)
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<2), ttl: nil, at: Self.start))
    for round in 0..<10_000 {
      _ = ledger.renew(grant.lease, ttl: nil, at: Self.start + .milliseconds(round))
    }
    #expect(ledger.deadlineCount <= 64)
    // And it ends at its last deadline, not before.
    ledger.expireDue(at: Self.start + .seconds(30))
    #expect(ledger.stats.leases == 1)
    ledger.expireDue(at: Self.start + .seconds(41))
    #expect(ledger.stats.leases == 0)
  }

  @Test func `a holder that asks for less and less time is remembered once`() throws {
    var ledger = Self.ledger(sealed: 2)
    let grant = try Self.granted(
      ledger.resolve(Self.keys(0..<2), ttl: .seconds(100), at: Self.start))
    for less in 1...10_000 {
      let ttl = Duration.seconds(100) - .nanoseconds(Int64(less))
      #expect(ledger.renew(grant.lease, ttl: ttl, at: Self.start) == .renewed(ttl: ttl))
    }
    // Two entries a lease and 64 more are the bound.
    #expect(ledger.deadlineCount <= 67, "\(ledger.deadlineCount) entries")
    ledger.expireDue(at: Self.start + .seconds(100))
    #expect(ledger.stats.leases == 0 && ledger.stats.pinned == 0)
  }

  @Test func `when only tails are pinned, a new block still finds a slot`() throws {
    var ledger = Self.ledger(slots: 8, sealed: 8)
    let tail = Array(Self.keys(5..<8))
    let grant = try Self.granted(ledger.resolve(tail, ttl: .seconds(9), at: Self.start))
    #expect(grant.blocks.count == 3)
    Self.seal(&ledger, Self.keys(100..<101))
    #expect(ledger.pool.has(Self.keys(100..<101)[0]), "the pool was full")
    #expect(tail.allSatisfy(ledger.pool.has) && ledger.stats.pinned == 3)
    // What follows an evicted block is evicted like any other, once it is free.
    #expect(ledger.release(grant.lease, at: Self.start) == .released)
    #expect(ledger.pool.evictUnpinned() == 8)
  }

  @Test func `of a chain the tail is evicted before the head`() throws {
    var ledger = Self.ledger(slots: 8, sealed: 8)
    Self.seal(&ledger, Self.keys(100..<103))
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<8), ttl: nil, at: Self.start))
    #expect(grant.blocks.count == 5, "the head of the chain went first")
  }

  @Test func `a question for another store is gone though the blocks are here`() {
    var ledger = Self.ledger(sealed: 2)
    let stranger = LeaseID(
      serial: 1, owner: Incarnation(high: 3, low: 3), holder: Incarnation(high: 1, low: 1))
    let answer = ledger.resolve(Self.keys(0..<2), as: stranger, ttl: nil, at: Self.start)
    #expect(answer == .refused(.gone) && ledger.stats.leases == 0 && ledger.stats.pinned == 0)
  }

  @Test func `of blocks that are given back together the last is evicted first`() throws {
    // What was used twice goes before what is new.
    var ledger = Self.ledger(slots: 8, sealed: 0, limits: Limits { $0.probationShare = 0.95 })
    // No chain says which of them comes before which.
    for key in Self.keys(0..<8) { Self.seal(&ledger, [key]) }
    let together = Self.keys(0..<4)
    for keys in [Self.keys(4..<8), together] {
      let grant = try Self.granted(
        ledger.resolve(keys, ttl: nil, at: Self.start))
      #expect(ledger.release(grant.lease, at: Self.start) == .released)
    }
    // The other four are older by now.
    for key in Self.keys(100..<104) { Self.seal(&ledger, [key]) }
    #expect(together.allSatisfy(ledger.pool.has))
    for left in [3, 2, 1] {
      Self.seal(&ledger, Self.keys(200 + left..<201 + left))
      #expect(together.map(ledger.pool.has) == (0..<4).map { $0 < left })
    }
  }

  @Test func `a question of no keys, or of more than a fetch may have, is invalid`() throws {
    let limits = Limits { $0.blocksPerFetchMax = 4 }
    var ledger = Self.ledger(sealed: 5, limits: limits)
    #expect(ledger.resolve([], ttl: nil, at: Self.start) == .refused(.invalid))
    #expect(ledger.resolve(Self.keys(0..<5), ttl: nil, at: Self.start) == .refused(.invalid))
    #expect(ledger.stats.leases == 0 && ledger.stats.pinned == 0)
    #expect(
      try Self.granted(ledger.resolve(Self.keys(0..<4), ttl: nil, at: Self.start)).blocks.count == 4
    )
  }

  @Test func `release is idempotent for a TTL, and another store's lease is gone`() throws {
    var ledger = Self.ledger(sealed: 2)
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<2), ttl: nil, at: Self.start))
    #expect(ledger.release(grant.lease, at: Self.start) == .released)
    #expect(ledger.release(grant.lease, at: Self.start) == .alreadyEnded)
    #expect(ledger.release(grant.lease, at: Self.start + .seconds(31)) == .gone)
    let foreign = LeaseID(
      serial: grant.lease.serial, owner: Incarnation(high: 1, low: 1), holder: grant.lease.holder)
    #expect(ledger.confirm(foreign, at: Self.start) == .gone)
    #expect(ledger.release(foreign, at: Self.start) == .gone)
  }

  @Test func `over budget the answer is shorter, and then a typed refusal`() throws {
    let limits = Limits {
      $0.pinnedFractionMax = 0.5
      $0.leasesMax = 2
    }
    var ledger = Self.ledger(slots: 8, sealed: 8, limits: limits)
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<8), ttl: nil, at: Self.start))
    #expect(grant.blocks.count == 4)
    // Blocks that are pinned already cost nothing more.
    _ = try Self.granted(ledger.resolve(Self.keys(0..<8), ttl: nil, at: Self.start))
    #expect(ledger.resolve(Self.keys(0..<8), ttl: nil, at: Self.start) == .refused(.overBudget))
    #expect(ledger.resolve([], ttl: nil, at: Self.start) == .refused(.invalid))
  }

  @Test func `the first writer of a key wins`() {
    var ledger = Self.ledger(sealed: 0)
    let key = Self.keys(0..<1)[0]
    guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: nil) else {
      Issue.record("the first writer was refused")
      return
    }
    #expect(ledger.pool.begin(key, after: nil) == .present)
    ledger.pool.abandon(slot, generation: generation)
    #expect(ledger.stats.free == 16 && !ledger.pool.has(key))
  }

  @Test func `a release that overtakes its resolve leaves no lease behind`() {
    var ledger = Self.ledger(sealed: 2)
    let lease = LeaseID(serial: 5, owner: Self.owner, holder: Incarnation(high: 7, low: 7))
    #expect(ledger.release(lease, at: Self.start) == .gone)
    let late = ledger.resolve(Self.keys(0..<2), as: lease, ttl: nil, at: Self.start)
    #expect(late == .refused(.gone) && ledger.stats.leases == 0 && ledger.stats.pinned == 0)
    // Forgotten after a while: the table does not grow with every release of nothing.
    ledger.expireDue(at: Self.start + .seconds(31))
    #expect(ledger.deadlineCount == 0)
  }

  @Test func `a question that comes twice under one name is one lease`() throws {
    var ledger = Self.ledger(sealed: 2)
    let lease = LeaseID(serial: 5, owner: Self.owner, holder: Incarnation(high: 7, low: 7))
    let first = try Self.granted(
      ledger.resolve(Self.keys(0..<2), as: lease, ttl: nil, at: Self.start))
    let second = try Self.granted(
      ledger.resolve(Self.keys(0..<2), as: lease, ttl: nil, at: Self.start))
    #expect(first.lease == second.lease && first.blocks == second.blocks)
    #expect(ledger.stats.leases == 1 && ledger.stats.granted == 1)
    // Another engine's lease of the same number is another lease.
    let other = LeaseID(serial: 5, owner: Self.owner, holder: Incarnation(high: 8, low: 8))
    _ = try Self.granted(ledger.resolve(Self.keys(0..<2), as: other, ttl: nil, at: Self.start))
    #expect(ledger.stats.leases == 2)
  }

  @Test(arguments: 0..<40) func `pins balance over any sequence of events`(seed: Int) {
    var generator = TestGenerator(seed: UInt64(seed))
    var ledger = Self.ledger(slots: 12, sealed: 8)
    var now = Self.start
    var held: [(Grant, [UInt32])] = []
    for step in 0..<400 {
      now = now + .milliseconds(Int.random(in: 0...400, using: &generator))
      switch Int.random(in: 0..<7, using: &generator) {
      case 0, 1:
        let first = Int.random(in: 0..<20, using: &generator)
        let ttl = Duration.milliseconds(Int.random(in: 1...3000, using: &generator))
        if case .granted(let grant) = ledger.resolve(
          Self.keys(first..<first + 6), ttl: ttl, at: now)
        {
          held.append((grant, grant.blocks.map(\.generation)))
        }
      case 2:
        if let some = held.randomElement(using: &generator) {
          _ = ledger.renew(some.0.lease, ttl: .milliseconds(500), at: now)
        }
      case 3:
        if !held.isEmpty {
          let index = Int.random(in: 0..<held.count, using: &generator)
          _ = ledger.release(held[index].0.lease, at: now)
        }
      case 4: ledger.expireDue(at: now)
      case 5: _ = ledger.pool.evictUnpinned()
      default:
        let first = Int.random(in: 0..<20, using: &generator)
        Self.seal(&ledger, Self.keys(first..<first + 3))
      }
      let stats = ledger.stats
      #expect(stats.free + stats.writing + stats.sealed == stats.slots, "step \(step)")
      #expect(stats.pinned <= stats.sealed)
      // A confirm never counts a slot that was written again.
      for (grant, generations) in held {
        guard case .intact(let count) = ledger.confirm(grant.lease, at: now) else { continue }
        for index in 0..<count {
          #expect(ledger.pool.generation(of: grant.blocks[index].slot) == generations[index])
        }
      }
    }
    ledger.expireDue(at: now + .seconds(300))
    #expect(ledger.stats.pinned == 0 && ledger.stats.leases == 0 && ledger.leasedPinCount == 0)
  }
}

extension StoreLedger {
  /// Asks under a name that was not used before.
  mutating func resolve(
    _ keys: [BlockKey], ttl: Duration?, at now: LocalInstant
  ) -> ResolveAnswer {
    let lease = LeaseID(
      serial: stats.granted + 1, owner: incarnation, holder: Incarnation(high: 1, low: 1))
    return resolve(keys, as: lease, ttl: ttl, at: now)
  }
}

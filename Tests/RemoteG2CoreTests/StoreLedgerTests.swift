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
    for key in keys {
      guard
        case .reserved(let slot, let generation) = ledger.pool.reserve(
          key, until: start + .seconds(30))
      else { continue }
      for rank in 0..<ranks {
        _ = ledger.pool.seal(
          slot, generation: generation, rank: rank, digest: Digest128(high: key.high, low: 0))
      }
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
    #expect(ledger.stats.leases == 1)
  }

  @Test func `a block is not grantable before every rank has sealed it`() {
    var ledger = Self.ledger(sealed: 0, ranks: 3)
    let key = Self.keys(0..<1)[0]
    guard
      case .reserved(let slot, let generation) = ledger.pool.reserve(
        key, until: Self.start + .seconds(1))
    else {
      Issue.record("an empty pool is full")
      return
    }
    for rank in 0..<3 {
      #expect(ledger.resolve([key], ttl: nil, at: Self.start) == .refused(.gone))
      _ = ledger.pool.seal(
        slot, generation: generation, rank: rank, digest: Digest128(high: 0, low: 0))
    }
    #expect(ledger.resolve([key], ttl: nil, at: Self.start) != .refused(.gone))
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

  @Test func `of a chain the tail is evicted before the head`() throws {
    var ledger = Self.ledger(slots: 8, sealed: 8)
    Self.seal(&ledger, Self.keys(100..<103))
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<8), ttl: nil, at: Self.start))
    #expect(grant.blocks.count == 5, "the head of the chain went first")
  }

  @Test func `release is idempotent for a TTL, and another store's lease is gone`() throws {
    var ledger = Self.ledger(sealed: 2)
    let grant = try Self.granted(ledger.resolve(Self.keys(0..<2), ttl: nil, at: Self.start))
    #expect(ledger.release(grant.lease, at: Self.start) == .released)
    #expect(ledger.release(grant.lease, at: Self.start) == .alreadyEnded)
    #expect(ledger.release(grant.lease, at: Self.start + .seconds(31)) == .gone)
    let foreign = LeaseID(serial: grant.lease.serial, owner: Incarnation(high: 1, low: 1))
    #expect(ledger.confirm(foreign, at: Self.start) == .gone)
    #expect(ledger.release(foreign, at: Self.start) == .gone)
  }

  @Test func `over budget the answer is shorter, and then a typed refusal`() throws {
    var limits = Limits()
    limits.pinnedFractionMax = 0.5
    limits.leasesMax = 2
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
    let deadline = Self.start + .seconds(1)
    guard case .reserved = ledger.pool.reserve(key, until: deadline) else {
      Issue.record("the first writer was refused")
      return
    }
    #expect(ledger.pool.reserve(key, until: deadline) == .present)
  }

  @Test func `a writer that vanished loses its slot, and its late seal is ignored`() {
    var ledger = Self.ledger(sealed: 0)
    guard
      case .reserved(let slot, let generation) = ledger.pool.reserve(
        Self.keys(0..<1)[0], until: Self.start + .seconds(1))
    else {
      Issue.record("the writer was refused")
      return
    }
    ledger.expireDue(at: Self.start + .seconds(1))
    #expect(ledger.stats.free == 16)
    let isSealed = ledger.pool.seal(
      slot, generation: generation, rank: 0, digest: Digest128(high: 0, low: 0))
    #expect(!isSealed)
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

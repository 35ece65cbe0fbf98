import RemoteG2Core
import Testing

/// What a ledger counts, and whom it does not know.
extension `Store ledger` {
  @Test func `a source that was replaced answers gone for its predecessor`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    let old = LeaseID(
      serial: 1, owner: Incarnation(high: 1, low: 1), holder: Incarnation(high: 3, low: 3))
    let now = LocalInstant(nanoseconds: 1)
    let (confirm, renew, release) = (
      ledger.confirm(old, at: now), ledger.renew(old, ttl: nil, at: now),
      ledger.release(old, at: now)
    )
    #expect(confirm == .gone && renew == .gone && release == .gone)
  }

  @Test func `a grant never skips a block that is missing`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    let now = LocalInstant(nanoseconds: 1)
    let keys = (0..<4).map { BlockKey(high: UInt64($0), low: 1) }
    for key in [keys[0], keys[2], keys[3]] {
      guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: nil) else {
        continue
      }
      ledger.pool.seal(
        slot, generation: generation, digests: [Digest128(high: key.high, low: 1)])
    }
    guard case .granted(let grant) = ledger.resolve(keys, ttl: nil, at: now) else {
      Issue.record("nothing was granted")
      return
    }
    #expect(grant.blocks.count == 1)
  }

  @Test func `two resolves of one prefix are two leases, and both balance`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    let now = LocalInstant(nanoseconds: 1)
    let key = BlockKey(high: 1, low: 1)
    guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: nil) else {
      return
    }
    ledger.pool.seal(slot, generation: generation, digests: [Digest128(high: 1, low: 1)])
    guard case .granted(let a) = ledger.resolve([key], ttl: nil, at: now),
      case .granted(let b) = ledger.resolve([key], ttl: nil, at: now)
    else {
      Issue.record("it was not granted")
      return
    }
    #expect(a.lease != b.lease)
    let first = ledger.release(a.lease, at: now)
    let pinned = ledger.stats.pinned
    #expect(first == .released && pinned == 1, "one release freed the other's pin")
    let second = ledger.release(b.lease, at: now)
    let left = ledger.stats.pinned
    #expect(second == .released && left == 0)
  }

  @Test func `what a store holds adds up to its pool`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    func total() -> Int { ledger.stats.free + ledger.stats.writing + ledger.stats.sealed }
    for number in 0..<5 {
      guard
        case .reserved(let slot, let generation) = ledger.pool.begin(
          BlockKey(high: UInt64(number), low: 1), after: nil)
      else { continue }
      #expect(total() == 8)
      if number % 2 == 0 {
        ledger.pool.seal(slot, generation: generation, digests: [Digest128(high: 1, low: 1)])
      }
      #expect(total() == 8)
    }
    let stats = ledger.stats
    #expect(stats.sealed == 3 && stats.writing == 2 && stats.free == 3)
  }

  @Test func `every question ends what is due before it is answered`() throws {
    let limits = Limits { $0.leasesMax = 1 }
    let later = Self.start + .seconds(2)
    func old() throws -> (StoreLedger, LeaseID) {
      var ledger = Self.ledger(sealed: 2, limits: limits)
      let grant = try Self.granted(
        ledger.resolve(Self.keys(0..<1), ttl: .seconds(1), at: Self.start))
      return (ledger, grant.lease)
    }
    // The only lease that may be live is over: there is room for another.
    var (asked, _) = try old()
    #expect(
      try Self.granted(asked.resolve(Self.keys(1..<2), ttl: nil, at: later)).blocks.count == 1)
    var (renewed, lease) = try old()
    #expect(renewed.renew(lease, ttl: nil, at: later) == .gone && renewed.stats.expired == 1)
    var (confirmed, other) = try old()
    #expect(confirmed.confirm(other, at: later) == .intact(1) && confirmed.stats.expired == 1)
    var (released, last) = try old()
    #expect(released.release(last, at: later) == .alreadyEnded && released.stats.expired == 1)
  }
}

/// A store's whole state: its slots and its leases, changed only together.
///
/// Looking blocks up, pinning them and answering is one act, so no answer can name a block that is
/// evicted before the pin. The shell wraps this value in one lock and gives it the time.
package struct StoreLedger: Sendable {
  private struct Lease: Sendable {
    let blocks: [GrantedBlock]
    var deadline: LocalInstant
    /// When its one entry in the heap that counts is due: at its deadline, or before.
    var listedAt: LocalInstant
    var isLive = true
  }

  package let incarnation: Incarnation
  package let limits: Limits
  package var pool: SlotPool
  /// Those that ended are remembered for a while, and so are those that ended before they began.
  private var leases: [LeaseID: Lease] = [:]
  /// A renewal moves the deadline and not the entry, which finds out when it is due.
  private var deadlines = DeadlineHeap<LocalInstant, LeaseID>()
  private var liveCount = 0
  private var grantedCount: UInt64 = 0
  private var releasedCount: UInt64 = 0
  private var expiredCount: UInt64 = 0

  /// - Parameters:
  ///   - tellsChanges: The pool's changes are taken again and again.
  ///   - hasTable: So are those of its slots.
  package init(
    incarnation: Incarnation, slotCount: Int, rankCount: Int, limits: Limits,
    tellsChanges: Bool = false, hasTable: Bool = false
  ) {
    self.incarnation = incarnation
    self.limits = limits
    pool = SlotPool(
      slotCount: slotCount, rankCount: rankCount, limits: limits, tellsChanges: tellsChanges,
      hasTable: hasTable)
  }

  // MARK: Events

  /// A target wants the longest prefix of `keys`, under a name for the lease that it chose.
  ///
  /// A question that comes twice gets the same answer, and one whose lease was given back before it
  /// came gets none.
  package mutating func resolve(
    _ keys: [BlockKey], as id: LeaseID, ttl: Duration?, at now: LocalInstant
  ) -> ResolveAnswer {
    expireDue(at: now)
    guard id.owner == incarnation else { return .refused(.gone) }
    guard !keys.isEmpty, keys.count <= limits.blocksPerFetchMax else { return .refused(.invalid) }
    if let known = leases[id] {
      guard known.isLive else { return .refused(.gone) }
      return .granted(Grant(lease: id, ttl: known.deadline - now, blocks: known.blocks))
    }
    let ttl = min(max(ttl ?? limits.leaseTTL, .milliseconds(1)), limits.leaseTTLMax)
    guard pool.slot(holding: keys[0]) != nil else { return .refused(.gone) }
    guard liveCount < limits.leasesMax else { return .refused(.overBudget) }
    var blocks: [GrantedBlock] = []
    for key in keys {
      guard let slot = pool.slot(holding: key) else { break }
      guard mayPin(slot) else { break }
      pool.pin(slot)
      blocks.append(
        GrantedBlock(
          slot: slot, generation: pool.generation(of: slot), digests: pool.digests(of: slot)))
    }
    guard !blocks.isEmpty else { return .refused(.overBudget) }
    leases[id] = Lease(blocks: blocks, deadline: now + ttl, listedAt: now + ttl)
    deadlines.insert(id, due: now + ttl)
    liveCount += 1
    grantedCount += 1
    return .granted(Grant(lease: id, ttl: ttl, blocks: blocks))
  }

  /// The holder still needs its lease. Refused after the deadline even if nothing has reaped it.
  package mutating func renew(
    _ id: LeaseID, ttl: Duration?, at now: LocalInstant
  ) -> RenewAnswer {
    expireDue(at: now)
    guard id.owner == incarnation, let lease = leases[id], lease.isLive else { return .gone }
    let ttl = min(max(ttl ?? limits.leaseTTL, .milliseconds(1)), limits.leaseTTLMax)
    leases[id]?.deadline = now + ttl
    if now + ttl < lease.listedAt { list(id, due: now + ttl) }
    return .renewed(ttl: ttl)
  }

  /// The holder has read its blocks and asks which of them it may believe.
  package mutating func confirm(_ id: LeaseID, at now: LocalInstant) -> ConfirmAnswer {
    expireDue(at: now)
    guard id.owner == incarnation, let lease = leases[id] else { return .gone }
    let intact = lease.blocks.prefix { pool.generation(of: $0.slot) == $0.generation }
    return .intact(intact.count)
  }

  package mutating func release(_ id: LeaseID, at now: LocalInstant) -> ReleaseAnswer {
    expireDue(at: now)
    guard id.owner == incarnation else { return .gone }
    guard let lease = leases[id] else {
      // It may have overtaken its resolve, which must not be granted when it comes.
      if leases.count < limits.leasesRememberedMax {
        remember(Lease(blocks: [], deadline: now, listedAt: now), id, at: now)
      }
      return .gone
    }
    // A release racing with expiry, or sent twice because its answer was lost.
    guard lease.isLive else { return .alreadyEnded }
    end(id, at: now)
    releasedCount += 1
    return .released
  }

  /// Their holders can read no more: what they pin is given back without waiting for their deadlines.
  package mutating func endLeases(at now: LocalInstant, where isGone: (LeaseID) -> Bool) {
    let ended = leases.filter { $0.value.isLive && isGone($0.key) }.keys
    for id in ended.sorted(by: { ($0.serial, $0.holder.low) < ($1.serial, $1.holder.low) }) {
      end(id, at: now)
      expiredCount += 1
    }
  }

  /// How many of those that hold something are of such holders.
  package func leaseCount(where isCounted: (LeaseID) -> Bool) -> Int {
    leases.count { $0.value.isLive && isCounted($0.key) }
  }

  /// Time passed. Ends what is due and forgets what ended a TTL ago.
  package mutating func expireDue(at now: LocalInstant) {
    while let first = deadlines.first, first.deadline <= now {
      _ = deadlines.popFirst()
      // An entry that another has taken the place of says nothing.
      guard let lease = leases[first.value], lease.listedAt == first.deadline else { continue }
      if lease.deadline > now {
        list(first.value, due: lease.deadline)
      } else if lease.isLive {
        end(first.value, at: now)
        expiredCount += 1
      } else {
        leases[first.value] = nil
      }
    }
  }

  /// Whether the slot may be pinned: some slots must always be able to be evicted.
  package func mayPin(_ slot: SlotIndex) -> Bool {
    pool.pins(of: slot) > 0
      || pool.pinnedCount < max(1, Int(Double(pool.slotCount) * limits.pinnedFractionMax))
  }

  // MARK: Queries

  /// When ``expireDue(at:)`` next has something to do.
  package var nextDeadline: LocalInstant? { deadlines.first?.deadline }
  /// Entries kept to know what is due.
  package var deadlineCount: Int { deadlines.count }

  package var stats: StoreStats {
    var stats = StoreStats()
    stats.slots = pool.slotCount
    stats.free = pool.freeCount
    stats.writing = pool.writingCount
    stats.sealed = pool.sealedCount
    stats.pinned = pool.pinnedCount
    stats.leases = liveCount
    stats.granted = grantedCount
    stats.released = releasedCount
    stats.expired = expiredCount
    stats.evicted = pool.evictedCount
    return stats
  }

  /// The pins that live leases account for; equals the pool's own count at every moment.
  package var leasedPinCount: Int {
    leases.values.reduce(0) { $0 + ($1.isLive ? $1.blocks.count : 0) }
  }

  // MARK: Private

  /// Unpins from the tail, so that the head of a chain is the last to be evicted.
  private mutating func end(_ id: LeaseID, at now: LocalInstant) {
    guard let lease = leases[id], lease.isLive else {
      preconditionFailure("\(id) ended twice")
    }
    for block in lease.blocks.reversed() { pool.unpin(block.slot) }
    liveCount -= 1
    guard leases.count <= limits.leasesRememberedMax else {
      leases[id] = nil
      return
    }
    remember(lease, id, at: now)
  }

  /// For one more TTL, so that confirm and release stay idempotent.
  private mutating func remember(_ lease: Lease, _ id: LeaseID, at now: LocalInstant) {
    var lease = lease
    lease.isLive = false
    lease.deadline = now + limits.leaseTTL
    leases[id] = lease
    list(id, due: lease.deadline)
  }

  private mutating func list(_ id: LeaseID, due deadline: LocalInstant) {
    leases[id]?.listedAt = deadline
    // Entries that others have taken the place of are dropped together, before they outnumber the leases.
    guard deadlines.count > 2 * leases.count + 64 else {
      deadlines.insert(id, due: deadline)
      return
    }
    deadlines = DeadlineHeap()
    for (id, lease) in leases { deadlines.insert(id, due: lease.listedAt) }
  }
}

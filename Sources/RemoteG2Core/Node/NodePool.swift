/// One pool of a node: its slots, and the engines that save into it.
struct NodePool: Sendable {
  let terms: PoolTerms
  var desk: LocalDesk
  var ledger: StoreLedger
  /// Taken over, and nobody has come for it yet: until then its engine may.
  var isAwaitedUntil: LocalInstant?

  /// Leases of whoever reads it by himself, and is no engine of this host.
  var peerLeases: Int { ledger.leaseCount { !desk.knows($0.holder) } }

  /// Pins what is sealed of a prefix, from a position on.
  ///
  /// - Returns: The slots, and whether the pins ended for want of blocks, not because too much is pinned.
  mutating func pinPrefix(
    _ keys: [BlockKey], from first: Int
  ) -> (slots: [SlotIndex], isAllowed: Bool) {
    var slots: [SlotIndex] = []
    for key in keys[min(first, keys.count)...] {
      guard let slot = ledger.pool.slot(holding: key) else { break }
      guard ledger.mayPin(slot) else { return (slots, false) }
      ledger.pool.pin(slot)
      slots.append(slot)
    }
    return (slots, true)
  }

  /// Unpins from the tail, so that the head of a chain is the last to be evicted.
  mutating func unpin(_ slots: [SlotIndex]) {
    for slot in slots.reversed() { ledger.pool.unpin(slot) }
  }

  /// Blocks to be sent, pinned: as many as are here in a row, and at most so many.
  mutating func serve(_ keys: [BlockKey], from first: Int, atMost most: Int) -> [ServedBlock] {
    var blocks: [ServedBlock] = []
    for position in first..<min(first + most, keys.count) {
      guard let slot = ledger.pool.slot(holding: keys[position]), ledger.mayPin(slot) else { break }
      let digests = ledger.pool.digests(of: slot).compactMap { $0 }
      guard digests.count == terms.rankCount else { break }
      ledger.pool.pin(slot)
      blocks.append(
        ServedBlock(
          position: position, slot: slot, generation: ledger.pool.generation(of: slot),
          digests: digests))
    }
    return blocks
  }
}

/// A pool is large: it is read and changed where it is, and never taken out of the dictionary and put back.
extension NodeCore {
  /// - Returns: Nil when there is no such pool.
  @discardableResult
  mutating func inPool<Result>(
    _ number: PoolNumber, _ body: (inout NodePool) -> Result
  ) -> Result? {
    guard let place = pools.index(forKey: number) else { return nil }
    return body(&pools.values[place])
  }

  /// Lets a pool's desk decide; what it orders is about that pool.
  mutating func withPool(
    _ number: PoolNumber, _ body: (inout NodePool) -> [LocalAction]
  ) -> [NodeAction] {
    (inPool(number, body) ?? []).map { .local($0, pool: number) }
  }

  func terms(of number: PoolNumber) -> PoolTerms? {
    pools.index(forKey: number).map { pools.values[$0].terms }
  }
}

/// What members have and have no more, for the pools' choice of what they evict. A key does not say which pool it is
/// for: all are told.
extension NodeCore {
  /// Of each pool, in place: whoever held on to the pools while one is changed would have it copied.
  private mutating func inEachPool(_ body: (inout SlotPool) -> Void) {
    for number in pools.keys.sorted() { inPool(number) { body(&$0.ledger.pool) } }
  }

  /// Nobody has it any more.
  mutating func noteEvicted(_ change: FeedChange) {
    inEachPool { $0.retention.noteEvicted(change.key, wasProtected: change.wasProtected) }
  }

  /// Another member has told these.
  mutating func noteHeard(_ changes: [FeedChange]) {
    let announced = index.announcedCount
    inEachPool { $0.retention.noteFleet(announced: announced) }
    for change in changes {
      if change.isSealed {
        inEachPool {
          $0.retention.noteReturned(change.key)
          $0.noteElsewhere(change.key)
        }
      } else if !index.isAnnounced(change.key) {
        keepLast(change)
      }
    }
  }

  /// No other member has it any more: our own copy is the last, or it is gone.
  private mutating func keepLast(_ change: FeedChange) {
    var isHere = false
    inEachPool { pool in
      isHere = isHere || pool.has(change.key)
      pool.keepLast(change.key)
    }
    if !isHere { noteEvicted(change) }
  }

  /// What some member announced counts no more.
  mutating func noteLost() {
    let index = index
    inEachPool { pool in
      for key in pool.copiedKeys where !index.isAnnounced(key) { pool.keepLast(key) }
    }
  }
}

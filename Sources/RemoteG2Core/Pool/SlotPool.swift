/// The slots of a store's pool: which are free, being written, or sealed under which key.
///
///     free ─reserve─▶ writing ─every rank sealed─▶ sealed ─evict─▶ free
///                        └────────abandon──────────────────────────▲
///
/// A slot's generation changes before anything may be written to it again, so "generation
/// unchanged" means "bytes unchanged". Pinned slots are never evicted.
package struct SlotPool: Sendable {
  package enum Phase: Equatable, Sendable { case free, writing, sealed }

  private struct Slot: Sendable {
    var phase: Phase = .free
    var generation: UInt32 = 0
    var pins = 0
    var key: BlockKey?
    var digests: [Digest128?] = []
    var writeDeadline = LocalInstant(nanoseconds: 0)
    /// Neighbours in the least-recently-used list of sealed, unpinned slots; -1 at the ends.
    var older: Int32 = -1
    var newer: Int32 = -1
  }

  package let rankCount: Int
  private var slots: [Slot]
  private var free: [SlotIndex]
  private var index: [BlockKey: SlotIndex] = [:]
  private var writing: [BlockKey: SlotIndex] = [:]
  private var oldest: Int32 = -1
  private var newest: Int32 = -1
  package private(set) var pinnedCount = 0
  package private(set) var evictedCount: UInt64 = 0

  package init(slotCount: Int, rankCount: Int) {
    precondition(slotCount > 0 && rankCount > 0, "a pool has slots and ranks")
    self.rankCount = rankCount
    slots = Array(repeating: Slot(), count: slotCount)
    free = (0..<slotCount).reversed().map { SlotIndex($0) }
  }

  package var slotCount: Int { slots.count }
  package var freeCount: Int { free.count }
  package var sealedCount: Int { index.count }
  package var writingCount: Int { writing.count }

  package func generation(of slot: SlotIndex) -> UInt32 { slots[slot.index].generation }
  package func digests(of slot: SlotIndex) -> [Digest128?] { slots[slot.index].digests }
  package func pins(of slot: SlotIndex) -> Int { slots[slot.index].pins }
  package func phase(of slot: SlotIndex) -> Phase { slots[slot.index].phase }

  /// The slot that holds `key`, sealed on every rank.
  package func slot(holding key: BlockKey) -> SlotIndex? { index[key] }

  // MARK: Writing

  /// Takes a slot for a writer of `key`, evicting the least recently used sealed block if need be.
  package mutating func reserve(_ key: BlockKey, until deadline: LocalInstant) -> Reservation {
    // Two engines' requests may finish the same block at once; the first to reserve writes it.
    if index[key] != nil || writing[key] != nil { return .present }
    if free.isEmpty, oldest >= 0 { evict(SlotIndex(Int(oldest))) }
    guard let slot = free.popLast() else { return .full }
    slots[slot.index].generation &+= 1
    slots[slot.index].phase = .writing
    slots[slot.index].key = key
    slots[slot.index].digests = Array(repeating: nil, count: rankCount)
    slots[slot.index].writeDeadline = deadline
    writing[key] = slot
    return .reserved(slot, generation: slots[slot.index].generation)
  }

  /// One rank's copy is complete. The block becomes visible when every rank's is.
  ///
  /// - Returns: false when the reservation no longer stands (taken back after its deadline).
  package mutating func seal(
    _ slot: SlotIndex, generation: UInt32, rank: Int, digest: Digest128
  ) -> Bool {
    guard slot.index >= 0, slot.index < slots.count, rank >= 0, rank < rankCount,
      slots[slot.index].phase == .writing, slots[slot.index].generation == generation,
      let key = slots[slot.index].key
    else { return false }
    slots[slot.index].digests[rank] = digest
    if slots[slot.index].digests.allSatisfy({ $0 != nil }) {
      slots[slot.index].phase = .sealed
      writing[key] = nil
      index[key] = slot
      linkNewest(slot)
    }
    return true
  }

  /// The writer gave up, or vanished.
  package mutating func abandon(_ slot: SlotIndex, generation: UInt32) -> Bool {
    guard slot.index >= 0, slot.index < slots.count, slots[slot.index].phase == .writing,
      slots[slot.index].generation == generation, let key = slots[slot.index].key
    else { return false }
    writing[key] = nil
    clear(slot)
    return true
  }

  /// Takes back reservations whose writer missed its deadline.
  package mutating func abandonOverdue(at now: LocalInstant) -> Int {
    let overdue = writing.values.filter { slots[$0.index].writeDeadline <= now }
    for slot in overdue { _ = abandon(slot, generation: slots[slot.index].generation) }
    return overdue.count
  }

  // MARK: Reading

  package mutating func pin(_ slot: SlotIndex) {
    precondition(slots[slot.index].phase == .sealed, "\(slot) is pinned before it is sealed")
    if slots[slot.index].pins == 0 {
      unlink(slot)
      pinnedCount += 1
    }
    slots[slot.index].pins += 1
  }

  package mutating func unpin(_ slot: SlotIndex) {
    precondition(slots[slot.index].pins > 0, "\(slot) is unpinned more often than pinned")
    slots[slot.index].pins -= 1
    if slots[slot.index].pins == 0 {
      pinnedCount -= 1
      linkNewest(slot)
    }
  }

  // MARK: Evicting

  /// Evicts every sealed block that no lease pins.
  package mutating func evictUnpinned() -> Int {
    var count = 0
    while oldest >= 0 {
      evict(SlotIndex(Int(oldest)))
      count += 1
    }
    return count
  }

  private mutating func evict(_ slot: SlotIndex) {
    precondition(slots[slot.index].pins == 0, "\(slot) is evicted under a lease")
    guard let key = slots[slot.index].key else { preconditionFailure("\(slot) has no key") }
    unlink(slot)
    index[key] = nil
    evictedCount += 1
    clear(slot)
  }

  private mutating func clear(_ slot: SlotIndex) {
    slots[slot.index].phase = .free
    slots[slot.index].key = nil
    slots[slot.index].digests = []
    free.append(slot)
  }

  // MARK: Least recently used

  private mutating func linkNewest(_ slot: SlotIndex) {
    slots[slot.index].older = newest
    slots[slot.index].newer = -1
    if newest >= 0 { slots[Int(newest)].newer = slot.value } else { oldest = slot.value }
    newest = slot.value
  }

  private mutating func unlink(_ slot: SlotIndex) {
    let (older, newer) = (slots[slot.index].older, slots[slot.index].newer)
    if older >= 0 { slots[Int(older)].newer = newer } else { oldest = newer }
    if newer >= 0 { slots[Int(newer)].older = older } else { newest = older }
    slots[slot.index].older = -1
    slots[slot.index].newer = -1
  }
}

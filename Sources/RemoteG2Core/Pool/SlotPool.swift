/// The slots of a store's pool: which are free, being written, or sealed under which key.
///
///     free ─begin─▶ writing ─seal─▶ sealed ─evict─▶ free
///                      └──abandon────────────────────▲
///
/// A slot's generation changes before anything may be written to it again, so "generation
/// unchanged" means "bytes unchanged". Pinned slots are never evicted. A block is evicted after those that
/// follow it in its chain, except when every block that nothing follows is pinned, or when it is a copy: another
/// member has it, too. Which one goes is told by ``Retention``, and among those of one kind by their last use. Only the
/// store itself writes slots, so nothing here waits for a writer.
package struct SlotPool: Sendable {
  package enum Phase: Equatable, Sendable { case free, writing, sealed }

  struct Slot: Sendable {
    var phase: Phase = .free
    var generation: UInt32 = 0
    var pins = 0
    var standing = Retention.Standing.probation
    /// Since it was sealed.
    var uses = 0
    var key: BlockKey?
    var parent: BlockKey?
    /// Sealed blocks that follow it.
    var children = 0
    var digests: [Digest128?] = []
    /// When it was last used, in uses of the pool.
    var lastUse: UInt64 = 0
  }

  package let rankCount: Int
  var slots: [Slot]
  var free: [SlotIndex]
  private var index: [BlockKey: SlotIndex] = [:]
  var writing: [BlockKey: SlotIndex] = [:]
  /// Slots that could be evicted, by what they are and by their last use. An entry counts only while it is true.
  private var evictable = [DeadlineHeap<UInt64, SlotIndex>](repeating: DeadlineHeap(), count: 3)
  var probationCount = 0
  package var retention: Retention
  var useNext: UInt64 = 1
  /// Sealed blocks by the key that they follow, while that key is not sealed itself.
  private var orphans: [BlockKey: Int] = [:]
  package private(set) var pinnedCount = 0
  package private(set) var evictedCount: UInt64 = 0
  /// What was sealed and evicted since it was last taken; nil where nobody is told.
  private var changes: [FeedChange]?
  /// What its table has not been told yet; nil where there is none.
  private var slotChanges: [SlotChange]?

  /// - Parameters:
  ///   - tellsChanges: ``takeChanges()`` is called again and again.
  ///   - hasTable: ``takeSlotChanges()`` is, after whatever changes it.
  package init(
    slotCount: Int, rankCount: Int, limits: Limits = Limits(), tellsChanges: Bool = false,
    hasTable: Bool = false
  ) {
    precondition(slotCount > 0 && rankCount > 0, "a pool has slots and ranks")
    retention = Retention(slotCount: slotCount, limits: limits)
    self.rankCount = rankCount
    changes = tellsChanges ? [] : nil
    slotChanges = hasTable ? [] : nil
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
  /// Of a block that is sealed or being written.
  package func key(of slot: SlotIndex) -> BlockKey? { slots[slot.index].key }

  /// The slot that holds `key`, sealed on every rank.
  package func slot(holding key: BlockKey) -> SlotIndex? { index[key] }
  /// Whether a block of that key is sealed or being written.
  package func has(_ key: BlockKey) -> Bool { index[key] != nil || writing[key] != nil }

  /// The keys that are sealed in some of the slots.
  package func sealedKeys(in range: Range<Int>) -> [BlockKey] {
    slots[range.clamped(to: slots.indices)].compactMap { $0.phase == .sealed ? $0.key : nil }
  }

  /// What was sealed and evicted since the last call, in order.
  package mutating func takeChanges() -> [FeedChange] {
    guard let taken = changes, !taken.isEmpty else { return [] }
    changes = []
    return taken
  }

  /// What happened to slots since the last call, in order.
  package mutating func takeSlotChanges() -> [SlotChange] {
    guard let taken = slotChanges, !taken.isEmpty else { return [] }
    slotChanges = []
    return taken
  }

  // MARK: Writing

  /// Takes a slot for the block of `key`, evicting one if need be.
  ///
  /// - Parameter isCopy: It is pulled: another member has it.
  package mutating func begin(
    _ key: BlockKey, after parent: BlockKey?, isCopy: Bool = false
  ) -> Reservation {
    // Two engines may commit the same block at once; the first is written.
    if has(key) { return .present }
    let parent = parent == key ? nil : parent
    if free.isEmpty { makeRoom(after: parent, forCopy: isCopy) }
    guard let slot = free.popLast() else { return .full }
    slots[slot.index].generation &+= 1
    slots[slot.index].phase = .writing
    slots[slot.index].standing = isCopy ? .copy : .probation
    slots[slot.index].key = key
    slots[slot.index].parent = parent
    slots[slot.index].digests = []
    writing[key] = slot
    tell(.begun(slot, generation: slots[slot.index].generation))
    return .reserved(slot, generation: slots[slot.index].generation)
  }

  /// Every rank's bytes are in the slot, and these are their digests. The block becomes visible.
  package mutating func seal(_ slot: SlotIndex, generation: UInt32, digests: [Digest128?]) {
    let key = enter(slot, generation, digests)
    if slots[slot.index].standing != .copy {
      slots[slot.index].standing = retention.noteReturned(key) ? .protected : .probation
    }
    if slots[slot.index].standing == .probation { probationCount += 1 }
    slots[slot.index].lastUse = useNext
    useNext += 1
    listIfEvictable(slot)
    tellSealed(slot)
  }

  /// A block that is written becomes one that can be found.
  @discardableResult
  mutating func enter(
    _ slot: SlotIndex, _ generation: UInt32, _ digests: [Digest128?]
  ) -> BlockKey {
    precondition(
      slots[slot.index].phase == .writing && slots[slot.index].generation == generation
        && digests.count == rankCount, "\(slot) is sealed by somebody who does not write it")
    guard let key = slots[slot.index].key else { preconditionFailure("\(slot) has no key") }
    writing[key] = nil
    index[key] = slot
    changes?.append(FeedChange(key: key, isSealed: true))
    slots[slot.index].phase = .sealed
    slots[slot.index].uses = 0
    slots[slot.index].digests = digests
    slots[slot.index].children = orphans.removeValue(forKey: key) ?? 0
    if let parent = slots[slot.index].parent { count(1, of: parent) }
    return key
  }

  private mutating func tellSealed(_ place: SlotIndex) {
    guard slotChanges != nil, let key = slots[place.index].key else { return }
    let digests = slots[place.index].digests.compactMap { $0 }
    // What cannot be checked afterwards is not worth writing down.
    guard digests.count == rankCount else { return }
    tell(
      .sealed(
        KeptSlot(
          slot: place, generation: slots[place.index].generation, key: key,
          parent: slots[place.index].parent, digests: digests, use: use(of: place))))
  }

  private mutating func tell(_ change: SlotChange) { slotChanges?.append(change) }

  private func use(of slot: SlotIndex) -> SlotUse {
    SlotUse(lastUse: slots[slot.index].lastUse, standing: slots[slot.index].standing)
  }

  /// What was being written is not what it should be.
  package mutating func abandon(_ slot: SlotIndex, generation: UInt32) {
    precondition(
      slots[slot.index].phase == .writing && slots[slot.index].generation == generation,
      "\(slot) is abandoned by somebody who does not write it")
    if let key = slots[slot.index].key { writing[key] = nil }
    clear(slot)
  }

  // MARK: Reading

  package mutating func pin(_ slot: SlotIndex) {
    precondition(slots[slot.index].phase == .sealed, "\(slot) is pinned before it is sealed")
    if slots[slot.index].pins == 0 { pinnedCount += 1 }
    slots[slot.index].pins += 1
  }

  package mutating func unpin(_ slot: SlotIndex) {
    precondition(slots[slot.index].pins > 0, "\(slot) is unpinned more often than pinned")
    slots[slot.index].pins -= 1
    if slots[slot.index].pins == 0 {
      pinnedCount -= 1
      promote(slot)
      noteUse(of: slot)
    }
  }

  /// It was read. Whoever pulled a block reads it once for that; one that is read twice more is worth a place of its own.
  private mutating func promote(_ slot: SlotIndex) {
    slots[slot.index].uses += 1
    switch slots[slot.index].standing {
    case .copy:
      if slots[slot.index].uses > 2 { set(.probation, slot) }
    case .probation: set(.protected, slot)
    case .protected: break
    }
  }

  private mutating func set(_ standing: Retention.Standing, _ slot: SlotIndex) {
    if slots[slot.index].standing == .probation { probationCount -= 1 }
    if standing == .probation { probationCount += 1 }
    slots[slot.index].standing = standing
  }

  /// Another member announces it, too. If nobody has read it here, or is reading it, that member has not pulled it from here: it was
  /// computed twice, and whichever of the two needs room first lets it go. Both may, before they hear of one another;
  /// then it is computed again.
  package mutating func noteElsewhere(_ key: BlockKey) {
    guard let slot = index[key], slots[slot.index].standing != .copy,
      slots[slot.index].uses == 0, slots[slot.index].pins == 0
    else { return }
    set(.copy, slot)
    tell(.used(slot, use(of: slot)))
    listIfEvictable(slot)
  }

  /// Nobody else announces it any more: if it is a copy, it is the last.
  package mutating func keepLast(_ key: BlockKey) {
    guard let slot = index[key], slots[slot.index].standing == .copy else { return }
    set(slots[slot.index].uses > 0 ? .protected : .probation, slot)
    tell(.used(slot, use(of: slot)))
    listIfEvictable(slot)
  }

  /// Of what others have, too, and is not worth a place of its own.
  package var copiedKeys: [BlockKey] {
    slots.compactMap { $0.phase == .sealed && $0.standing == .copy ? $0.key : nil }
  }

  package func standing(of slot: SlotIndex) -> Retention.Standing { slots[slot.index].standing }

  // MARK: Evicting

  /// Evicts every sealed block that no lease pins, but for those that a pinned one follows.
  package mutating func evictUnpinned() -> Int {
    var count = 0
    while evictNext(sparing: nil, forCopy: false) == .made { count += 1 }
    return count
  }

  private enum Room { case made, onlyTheParent, none }

  /// For a block that follows `parent`, which itself stays. A block whose parent is not here could not be found, and
  /// nothing makes room for it; nor does what is worth as much, where that is the parent alone.
  private mutating func makeRoom(after parent: BlockKey?, forCopy isCopy: Bool) {
    if let parent, !has(parent) { return }
    let spared = parent.flatMap { index[$0] }
    if evictNext(sparing: spared, forCopy: isCopy) == .none { evictInner(sparing: spared) }
  }

  /// Copies first; then what is on probation while there is more of it than its share, or for another copy, and what
  /// is protected otherwise.
  private mutating func evictNext(sparing spared: SlotIndex?, forCopy isCopy: Bool) -> Room {
    let isOver = isCopy || probationCount > retention.probationSlots
    var hasMetTheParent = false
    let order: [Retention.Standing] =
      isOver ? [.copy, .probation, .protected] : [.copy, .protected, .probation]
    for standing in order {
      switch evictOldest(standing, sparing: spared) {
      case .made: return .made
      // The new block would be on probation too, and after it.
      case .onlyTheParent where standing == .probation && !isCopy: return .onlyTheParent
      case .onlyTheParent: hasMetTheParent = true
      case .none: break
      }
    }
    return hasMetTheParent ? .onlyTheParent : .none
  }

  private mutating func evictOldest(
    _ standing: Retention.Standing, sparing spared: SlotIndex?
  ) -> Room {
    var kept: DeadlineHeap<UInt64, SlotIndex>.Entry?
    defer { if let kept { evictable[standing.place].insert(kept.value, due: kept.deadline) } }
    while let entry = evictable[standing.place].popFirst() {
      let slot = entry.value
      // It was used, pinned or followed since, or is something else by now.
      guard isEvictable(slot), slots[slot.index].lastUse == entry.deadline,
        slots[slot.index].standing == standing
      else { continue }
      guard slot != spared else {
        kept = entry
        continue
      }
      evict(slot)
      return .made
    }
    return kept == nil ? .none : .onlyTheParent
  }

  /// The block used longest ago that no lease pins, though others follow it: every leaf is pinned. What
  /// follows it cannot be found before it is saved again.
  private mutating func evictInner(sparing spared: SlotIndex?) {
    let oldest = slots.indices.filter {
      slots[$0].phase == .sealed && slots[$0].pins == 0 && SlotIndex($0) != spared
    }
    .min { slots[$0].lastUse < slots[$1].lastUse }
    guard let oldest else { return }
    evict(SlotIndex(oldest))
  }

  private func isEvictable(_ slot: SlotIndex) -> Bool {
    let slot = slots[slot.index]
    return slot.phase == .sealed && slot.pins == 0
      && (slot.children == 0 || slot.standing == .copy)
  }

  private mutating func evict(_ slot: SlotIndex) {
    guard let key = slots[slot.index].key else { preconditionFailure("\(slot) has no key") }
    index[key] = nil
    if slots[slot.index].children > 0 { orphans[key] = slots[slot.index].children }
    let standing = slots[slot.index].standing
    if standing == .probation { probationCount -= 1 }
    changes?.append(FeedChange(key: key, isSealed: false, wasProtected: standing == .protected))
    evictedCount += 1
    if let parent = slots[slot.index].parent { count(-1, of: parent) }
    clear(slot)
  }

  private mutating func clear(_ slot: SlotIndex) {
    tell(.freed(slot, generation: slots[slot.index].generation))
    slots[slot.index].phase = .free
    slots[slot.index].key = nil
    slots[slot.index].parent = nil
    slots[slot.index].children = 0
    slots[slot.index].digests = []
    free.append(slot)
  }

  /// A block that follows `parent` came, or went.
  private mutating func count(_ change: Int, of parent: BlockKey) {
    if let slot = index[parent] {
      slots[slot.index].children += change
      listIfEvictable(slot)
      return
    }
    let left = (orphans[parent] ?? 0) + change
    orphans[parent] = left > 0 ? left : nil
  }

  private mutating func noteUse(of slot: SlotIndex) {
    slots[slot.index].lastUse = useNext
    useNext += 1
    tell(.used(slot, use(of: slot)))
    listIfEvictable(slot)
  }

  mutating func listIfEvictable(_ slot: SlotIndex) {
    guard isEvictable(slot) else { return }
    // Entries that no longer count are dropped together, before they outnumber the slots.
    let place = slots[slot.index].standing.place
    if evictable[place].count > 2 * slots.count + 64 {
      evictable[place] = DeadlineHeap()
      for other in slots.indices
      where isEvictable(SlotIndex(other)) && slots[other].standing.place == place {
        evictable[place].insert(SlotIndex(other), due: slots[other].lastUse)
      }
      return
    }
    evictable[place].insert(slot, due: slots[slot.index].lastUse)
  }
}

extension Retention.Standing {
  fileprivate var place: Int {
    switch self {
    case .copy: 0
    case .probation: 1
    case .protected: 2
    }
  }
}

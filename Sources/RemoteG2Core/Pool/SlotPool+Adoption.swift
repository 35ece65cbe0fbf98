/// A pool whose bytes were there before its process.
extension SlotPool {
  /// Of a new pool, before anything else: what it holds, unseen by anybody until ``verified(_:isRight:)``.
  package mutating func adopt(_ adoption: Adoption) {
    precondition(
      adoption.generations.count == slotCount && freeCount == slotCount, "it is not a new pool")
    for place in slots.indices { slots[place].generation = adoption.generations[place] }
    for kept in adoption.kept {
      slots[kept.slot.index].phase = .writing
      slots[kept.slot.index].key = kept.key
      slots[kept.slot.index].parent = kept.parent
      writing[kept.key] = kept.slot
      useNext = max(useNext, kept.use.lastUse + 1)
    }
    free.removeAll { slots[$0.index].phase != .free }
  }

  /// The bytes of a block that was taken over have been digested.
  package mutating func verified(_ kept: KeptSlot, isRight: Bool) {
    guard isRight else {
      // As whoever found that out has written it into the slot's words.
      slots[kept.slot.index].generation &+= 1
      return abandon(kept.slot, generation: kept.generation &+ 1)
    }
    enter(kept.slot, kept.generation, kept.digests)
    slots[kept.slot.index].standing = kept.use.standing
    slots[kept.slot.index].lastUse = kept.use.lastUse
    // How often it was used is not written down, and that it was used twice is.
    if kept.use.standing == .protected { slots[kept.slot.index].uses = 1 }
    if kept.use.standing == .probation { probationCount += 1 }
    listIfEvictable(kept.slot)
  }
}

/// What was taken over from the process before this one.
package struct AdoptionReport: Codable, Equatable, Sendable {
  /// How many processes have served for this node's keeper, this one included.
  package var life: Int
  /// Blocks that are found again.
  package var adopted = 0
  /// Blocks of which nobody has looked yet whether they are what they were.
  package var waiting = 0
  /// Blocks whose entries, or bytes, were not what they should be.
  package var refused = 0

  package init(life: Int) { self.life = life }
}

/// A node whose pools were there before its process.
extension NodeCore {
  /// Takes a pool over, before anything else happens.
  ///
  /// - Parameter id: A new one, so that nobody takes what this process answers for what another did.
  /// - Returns: Its number; nil: it is larger than this node's memory allows.
  package mutating func adopt(
    _ header: TableHeader, _ adoption: Adoption, as id: Incarnation, at now: LocalInstant
  ) -> (number: PoolNumber, actions: [NodeAction])? {
    let (bytes, overflows) = header.slotCount.multipliedReportingOverflow(
      by: header.terms.bytesOfAllRanks)
    guard !overflows, bytes <= memoryBytes - bytesInUse, header.slotCount <= limits.slotsMax,
      !pools.values.contains(where: { $0.terms == header.terms })
    else { return nil }
    let number = PoolNumber(poolNext)
    poolNext += 1
    var pool = newPool(id, header.terms, slots: header.slotCount)
    pool.ledger.pool.adopt(adoption)
    pool.isAwaitedUntil = now + limits.storeAttachMax
    pools[number] = pool
    poolsVersion += 1
    adopting?.waiting += adoption.kept.count
    adopting?.refused += adoption.refused
    return (number, [.feedChanged] + beginAgent(number, id, at: now))
  }

  /// Whether the bytes of a block that was taken over are those that it was sealed with.
  package mutating func verified(
    _ kept: KeptSlot, in number: PoolNumber, isRight: Bool
  ) -> [NodeAction] {
    adopting?.waiting -= 1
    // Its pool may have made room for another meanwhile.
    guard inPool(number, { $0.ledger.pool.verified(kept, isRight: isRight) }) != nil else {
      return []
    }
    if isRight { adopting?.adopted += 1 } else { adopting?.refused += 1 }
    return news()
  }

  /// So many of a pool that has gone will not be looked at.
  package mutating func notVerified(_ count: Int) { adopting?.waiting -= count }

  /// What happened to slots since the last call, for the tables beside the pools.
  package mutating func takeSlotChanges() -> [(pool: PoolNumber, changes: [SlotChange])] {
    guard hasKeeper else { return [] }
    // Not over the keys themselves: they would hold on to the pools.
    return pools.keys.sorted().compactMap { number in
      let changes = inPool(number) { $0.ledger.pool.takeSlotChanges() } ?? []
      return changes.isEmpty ? nil : (number, changes)
    }
  }
}

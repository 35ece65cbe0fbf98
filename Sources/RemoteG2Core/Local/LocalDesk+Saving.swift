/// How a block is saved: ranks stage it, their leader commits it, all in one step of the engine.
///
/// What is staged, committed and settled comes over several connections, in any order. An engine that numbers its
/// steps settles them one after another; one that offers blocks first (step 0) withdraws what it does not commit.
extension LocalDesk {
  mutating func staged(
    _ blocks: [StagedBlock], _ id: Incarnation, _ rank: Int, _ slots: Int,
    _ connection: ConnectionID, _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    var actions: [LocalAction] = []
    for block in blocks {
      // A slot of its memory, and one that it may write now.
      guard block.slot < UInt32(clamping: slots),
        slotsInUse[connection]?.contains(block.slot) != true
      else { return actions + malformed(connection) }
      guard takes(block, of: id, rank, ledger) else {
        actions.append(.send(connection, .freed([block.slot])))
        actions += turnAway(block, of: id, over: connection, ledger)
        continue
      }
      // The same block, staged again in a later step: all ranks' bytes are to be of one.
      if let old = engines[id]?.staged[block.key], old.step < block.step {
        // A commit of the earlier step will not be carried out.
        actions += drop([block.key], of: id, keeping: block.step)
      }
      var staged =
        engines[id]?.staged[block.key]
        ?? Staged(places: Array(repeating: nil, count: rankCount), step: block.step)
      staged.places[rank] = block.slot
      slotsInUse[connection, default: []].insert(block.slot)
      engines[id]?.staged[block.key] = staged
      actions += trySeal(block.key, of: id, &ledger)
    }
    return actions
  }

  private func takes(
    _ block: StagedBlock, of id: Incarnation, _ rank: Int, _ ledger: StoreLedger
  ) -> Bool {
    guard let engine = engines[id], engine.leader != nil else { return false }
    // Copied, or being copied.
    if engine.copying.contains(block.key) || ledger.pool.has(block.key) { return false }
    // It came after its block was given up: the connections are several.
    if block.step == 0 {
      if engine.withdrawn.contains(block.key) { return false }
    } else if block.step <= engine.settledThrough, engine.committed[block.key]?.step != block.step {
      return false
    }
    guard let staged = engine.staged[block.key] else { return true }
    // Staged twice, or by now in a later step.
    return staged.step < block.step || (staged.step == block.step && staged.places[rank] == nil)
  }

  /// A rank's bytes of a block are not taken: neither is the block, in this step.
  private mutating func turnAway(
    _ block: StagedBlock, of id: Incarnation, over connection: ConnectionID, _ ledger: StoreLedger
  ) -> [LocalAction] {
    // Its bytes of that step are here already: two requests of one step had the same block.
    if let staged = engines[id]?.staged[block.key], staged.step == block.step,
      engines[id]?.ranks.firstIndex(of: connection).map({ staged.places[$0] != nil }) == true
    {
      return []
    }
    // Its commit came first. Were it kept, and the block evicted, it would wait for bytes that nobody stages.
    if engines[id]?.committed[block.key]?.step == block.step,
      engines[id]?.copying.contains(block.key) == false
    {
      engines[id]?.committed[block.key] = nil
      return drop([block.key], of: id, isWithdrawn: false)
        + tell(block.key, ledger.pool.has(block.key) ? .present : .lost, to: id)
    }
    // Its commit comes later.
    if block.step == 0 {
      if ledger.pool.has(block.key) { engines[id]?.withdrawn.insert(block.key) }
    } else {
      noteLost(block.key, in: block.step, of: id)
    }
    return []
  }

  /// A commit of it in that step would wait for bytes that will not come.
  private mutating func noteLost(_ key: BlockKey, in step: UInt64, of id: Incarnation) {
    guard let engine = engines[id], engine.leader != nil, step > engine.settledThrough else {
      return
    }
    // More than can be staged in the steps that are under way: an engine that stages without end.
    guard engine.turnedAway.count < limits.storeSavesInFlightMax * 4 else {
      engines[id]?.lostThrough = max(step, engine.lostThrough)
      return
    }
    engines[id]?.turnedAway[key] = max(step, engine.turnedAway[key] ?? 0)
  }

  mutating func committed(
    _ blocks: [CommittedBlock], _ id: Incarnation, _ connection: ConnectionID,
    _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    var actions: [LocalAction] = []
    for block in blocks {
      if ledger.pool.has(block.key) {
        actions += drop([block.key], of: id, isWithdrawn: false) + tell(block.key, .present, to: id)
        continue
      }
      if isLost(block, of: id) {
        actions += tell(block.key, .lost, to: id)
        continue
      }
      // Bounded by what can be staged, and by an engine that has only so many saves in flight.
      guard (engines[id]?.committed.count ?? 0) < limits.storeSavesInFlightMax * 2 else {
        actions += drop([block.key], of: id) + tell(block.key, .full, to: id)
        continue
      }
      if let old = engines[id]?.staged[block.key], old.step < block.step {
        actions += giveBack(block.key, of: id)
      }
      // Of an earlier step: its bytes were never all here.
      if engines[id]?.committed.updateValue(block, forKey: block.key) != nil {
        actions += tell(block.key, .lost, to: id)
      }
      actions += trySeal(block.key, of: id, &ledger)
    }
    return actions
  }

  /// Whether some rank's bytes of it are gone, and will not come.
  private func isLost(_ block: CommittedBlock, of id: Incarnation) -> Bool {
    guard let engine = engines[id] else { return true }
    guard block.step > 0 else { return engine.withdrawn.contains(block.key) }
    let staged = engine.staged[block.key]
    if let staged, staged.step > block.step { return true }
    if engine.turnedAway[block.key] ?? 0 >= block.step { return true }
    return engine.ranks.indices.contains { rank in
      let isHere = staged?.step == block.step && staged?.places[rank] != nil
      return !isHere
        && (engine.ranks[rank] == nil || engine.firstSteps[rank] > block.step
          || block.step <= engine.lostThrough)
    }
  }

  /// Takes a slot for a block that is committed and that every rank has staged.
  private mutating func trySeal(
    _ key: BlockKey, of id: Incarnation, _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    guard let engine = engines[id], let block = engine.committed[key],
      let staged = engine.staged[key], staged.step == block.step,
      staged.places.allSatisfy({ $0 != nil })
    else { return [] }
    var sources: [StageSource] = []
    for (rank, place) in staged.places.enumerated() {
      guard let slot = place, let connection = engine.ranks[rank] else { return [] }
      sources.append(StageSource(connection: connection, slot: slot))
    }
    switch ledger.pool.begin(key, after: block.parent) {
    case .reserved(let slot, let generation):
      engines[id]?.committed[key] = nil
      engines[id]?.staged[key] = nil
      engines[id]?.copying.insert(key)
      return [
        .copy(
          StageCopy(
            engine: id, key: key, slot: slot, generation: generation, sources: sources,
            expected: block.digests))
      ]
    case .present:
      engines[id]?.committed[key] = nil
      return drop([key], of: id) + tell(key, .present, to: id)
    case .full:
      engines[id]?.committed[key] = nil
      return drop([key], of: id) + tell(key, .full, to: id)
    }
  }

  /// What was staged up to this step is committed by now, or never will be.
  mutating func settle(_ id: Incarnation, through step: UInt64) -> [LocalAction] {
    guard let engine = engines[id], step > engine.settledThrough else { return [] }
    engines[id]?.settledThrough = step
    engines[id]?.turnedAway = engine.turnedAway.filter { $0.value > step }
    let over = engine.staged.filter { key, staged in
      staged.step > 0 && staged.step <= step && engine.committed[key]?.step != staged.step
    }
    return over.keys.sorted().flatMap { giveBack($0, of: id) }
  }

  /// These will not be sealed: what ranks have staged of them may be written again. A commit that can
  /// not be carried out any more is answered.
  ///
  /// - Parameters:
  ///   - isWithdrawn: What a rank still stages of them is to be refused.
  ///   - kept: A commit of this step may still be carried out.
  mutating func drop(
    _ keys: [BlockKey], of id: Incarnation, isWithdrawn: Bool = true, keeping kept: UInt64? = nil
  ) -> [LocalAction] {
    var actions: [LocalAction] = []
    for key in keys {
      let step = engines[id]?.staged[key]?.step ?? engines[id]?.committed[key]?.step ?? 0
      if isWithdrawn, step == 0 { engines[id]?.withdrawn.insert(key) }
      actions += giveBack(key, of: id)
      if let block = engines[id]?.committed[key], block.step != kept {
        engines[id]?.committed[key] = nil
        actions += tell(key, .lost, to: id)
      }
    }
    return actions
  }

  /// What ranks have staged of a block may be written again.
  private mutating func giveBack(_ key: BlockKey, of id: Incarnation) -> [LocalAction] {
    guard let staged = engines[id]?.staged.removeValue(forKey: key) else { return [] }
    if staged.step > 0 { noteLost(key, in: staged.step, of: id) }
    return staged.places.enumerated().compactMap { rank, place in
      guard let place, let connection = engines[id]?.ranks[rank] else { return nil }
      return free(place, of: connection)
    }
  }

  /// The rank may write this slot of its staging memory again.
  mutating func free(_ slot: UInt32, of connection: ConnectionID) -> LocalAction {
    slotsInUse[connection]?.remove(slot)
    return .send(connection, .freed([slot]))
  }

  mutating func tell(
    _ key: BlockKey, _ kind: SaveOutcome.Kind, to id: Incarnation
  ) -> [LocalAction] {
    outcomes[kind, default: 0] += 1
    guard let leader = engines[id]?.leader else { return [] }
    return [.send(leader, .saved([SaveOutcome(key: key, kind: kind)]))]
  }
}

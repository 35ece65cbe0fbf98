import ContentDigest
import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import TransferRig

/// The checkers.
extension SimWorld {
  /// I1: the tokens are those of a run that shares nothing.
  func checkResult(
    _ result: RequestResult, _ prompt: [Int32], _ generateMax: Int, on engine: SimEngine
  ) {
    if let error = result.error {
      stats.failures += 1
      switch error {
      case .loadFailed where policy == .fail: return
      // A peer that neither answers nor dies holds the blocks; the client is told.
      case .starved where !engine.spy.quarantine.isEmpty: return
      default:
        violate(
          .recomputeIsNormal,
          "\(result.id) ended with: \(error); open: \(engine.connector.open), pool "
            + "\(engine.engine.poolCounts), store "
            + "\(engine.control.localStore?.incarnation.description ?? "away"), "
            + "saves: \(engine.connector.savesInWords)")
      }
      return
    }
    let expected = golden.answer(prompt).generated.prefix(generateMax)
    if !expected.elementsEqual(result.generated) {
      violate(
        weights.hostile > 0 ? .trustBoundary : .failClosed,
        "\(result.id) on \(nodes[engine.worker].name) gave \(result.generated), alone it gives "
          + "\(Array(expected))")
    }
  }

  /// I7, I5, and I1 for what was pulled: a block that gets its name has the bytes of that name, on
  /// every rank.
  func checkSealed(_ blocks: [SealedBlock], on engine: SimEngine) {
    for block in blocks {
      for (rank, memory) in engine.memories.enumerated() {
        guard let expected = golden.digest(block.key, rank: rank) else {
          violate(.visibleOnlyWhenSealed, "\(block.block) was sealed under a key nobody computes")
          return
        }
        if ContentDigest.of(memory.region.bytes(of: block.block.index)) != expected {
          // Right on one rank and wrong on another: the group did not have one outcome.
          let isRight = engine.memories.indices.contains { other in
            ContentDigest.of(engine.memories[other].region.bytes(of: block.block.index))
              == golden.digest(block.key, rank: other)
          }
          violate(
            isRight ? .leaderDecides : .failClosed,
            "\(block.block) was sealed on rank \(rank) with the wrong bytes")
          return
        }
      }
    }
  }

  /// I7 at the source: what is granted has, at that moment, the bytes of its key on every rank.
  func checkGrant(_ grant: Grant, _ keys: [BlockKey], of store: SimStore) {
    for (block, key) in zip(grant.blocks, keys) {
      for (rank, pool) in store.memory.pools.enumerated() {
        let bytes = pool.memory.region.bytes(of: block.slot.index)
        if ContentDigest.of(bytes) != golden.digest(key, rank: rank) {
          violate(
            .visibleOnlyWhenSealed, "\(store.name) granted \(block.slot) with the wrong bytes")
          return
        }
      }
    }
    // A question that came twice gets one lease; its blocks are those of the first answer.
    if let before = leasesEver.updateValue(grant.blocks, forKey: grant.lease),
      before != grant.blocks
    {
      violate(.namesNeverReused, "\(grant.lease) was granted twice")
    }
    if grant.lease.owner != store.incarnation {
      violate(.namesNeverReused, "\(grant.lease) was granted by another store")
    }
  }

  /// After every step of an engine.
  func checkStep(_ engine: SimEngine) {
    if let due = engine.spy.nextDeadline, due <= engine.now {
      violate(
        .noWaitWithoutDeadline, "after a step: \(engine.connector.overdue(at: engine.now))")
    }
    for blocks in engine.engine.tables {
      for block in blocks where engine.spy.quarantine.contains(block) {
        violate(.quietBeforeReuse, "\(block) is used while it may still be written")
      }
    }
    for block in engine.spy.quarantine where engine.engine.holds(of: block) == 0 {
      violate(.quietBeforeReuse, "\(block) is free while it may still be written")
    }
    for (fetch, count) in engine.spy.settles where count > 1 {
      violate(.oneTerminalResult, "\(fetch) settled \(count) times")
    }
    for (lease, count) in engine.control.releases where count > 1 {
      violate(.oneTerminalResult, "\(lease) was released \(count) times")
    }
    let open = engine.connector.open
    if open.fetches > limits.fetchesInFlightMax + engine.running.count {
      violate(.budgets, "\(open.fetches) fetches are open")
    }
    if open.quarantined != engine.spy.quarantine.count {
      violate(
        .budgets,
        "\(open.quarantined) blocks are counted as quarantined, \(engine.spy.quarantine.count) are")
    }
  }

  /// I9 at the source.
  func checkStore(_ store: SimStore) {
    let stats = store.ledger.stats
    if stats.free + stats.writing + stats.sealed != stats.slots {
      violate(.budgets, "\(store.name)'s slots do not add up: \(stats)")
    }
    if stats.leases > limits.leasesMax { violate(.budgets, "\(stats.leases) leases") }
    let most = max(1, Int(Double(stats.slots) * limits.pinnedFractionMax))
    if stats.pinned > most { violate(.budgets, "\(stats.pinned) slots are pinned") }
  }

  /// When everything has healed and had its time.
  func checkEnd() {
    for node in nodes {
      guard let engine = node.engine, let store = node.store else {
        violate(.sideServiceMayVanish, "\(node.name) did not come back")
        return
      }
      if let id = engine.running.keys.min() {
        violate(.recomputeIsNormal, "\(id) on \(node.name) never ended")
      }
      if !engine.leftovers.isEmpty {
        violate(.accounted, "\(node.name) is left with \(engine.leftovers)")
      }
      if store.memory.desk.stagedCount > 0 {
        violate(.accounted, "\(store.memory.desk.stagedCount) blocks stay staged at \(node.name)")
      }
      let stats = store.ledger.stats
      if stats.leases != 0 || stats.pinned != 0 || stats.writing != 0 {
        violate(.accounted, "\(node.name)'s store is left with \(stats)")
      }
      if store.ledger.leasedPinCount != 0 { violate(.budgets, "pins without leases") }
      if engine.control.localStore == nil {
        violate(.sideServiceMayVanish, "\(node.name) did not find its own store again")
      }
      for (name, peer) in engine.control.core.peers {
        if case .ready = peer.state { continue }
        violate(.sideServiceMayVanish, "\(node.name) did not find \(name) again")
      }
      let told = engine.events.count { $0.kind == .fallback }
      let counted = engine.connector.fallbacks.values.reduce(0, +)
      let failed = engine.events.count { $0.kind == .failed }
      if told + failed != counted {
        violate(.accounted, "\(told + failed) fallbacks were told and \(counted) counted")
      }
    }
  }

  /// Adds what the engines' events say to the run's account.
  func countEvents() {
    for node in nodes {
      guard let engine = node.engine else { continue }
      for event in engine.events {
        switch event.kind {
        case .fallback where event.reason == .stalled: stats.hedges += 1
        case .salvaged: stats.salvages += 1
        default: break
        }
      }
      stats.fences += engine.pumps.reduce(0) {
        $0 + $1.faulty.fencedCount + $1.memory.fencedCount
      }
    }
  }
}

public import RemoteG2Core

/// Publication: sealed in G1 → reserved in the store → copied on every rank → sealed there.
extension RemoteG2Connector {
  public func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex] {
    guard !isOff, let local = control.localStore, isAttached(local) else { return [] }
    let room = settings.limits.storeSavesInFlightMax - savesInFlight.count
    let accepted = blocks.filter { savesInFlight[$0.block] == nil }.prefix(max(0, room))
    guard !accepted.isEmpty else { return [] }
    let batch = batchNext
    batchNext += 1
    saves[batch] = Array(accepted)
    for block in accepted { savesInFlight[block.block] = settings.rankCount }
    control.post(.reserve(batch: batch, local, keys: accepted.map(\.key)))
    return accepted.map(\.block)
  }

  func reserved(_ batch: UInt64, _ reservations: [Reservation]?) {
    guard let blocks = saves.removeValue(forKey: batch) else { return }
    guard let reservations, reservations.count == blocks.count, let local = control.localStore
    else {
      // The store is away, or the peer's fault: nothing is saved, nothing is lost.
      for block in blocks { finishSave(of: block.block) }
      return
    }
    var copies: [BlockSave] = []
    for (block, reservation) in zip(blocks, reservations) {
      guard case .reserved(let slot, let generation) = reservation else {
        finishSave(of: block.block)
        continue
      }
      copies.append(
        BlockSave(
          block: block.block, slot: slot, generation: generation, store: local.incarnation,
          digests: block.digests))
    }
    if !copies.isEmpty { orders.append(.save(copies)) }
  }

  func absorbSaves(_ report: RankReport) {
    guard !report.saved.isEmpty else { return }
    let copied = report.saved.filter { $0.digest != nil }
    if let first = copied.first {
      control.post(.seal(.local(first.save.store), rank: report.rank, copied))
    }
    for saved in report.saved {
      let left = (savesInFlight[saved.save.block] ?? 1) - 1
      savesInFlight[saved.save.block] = left
      if left == 0 { finishSave(of: saved.save.block) }
    }
  }

  private func finishSave(of block: BlockIndex) {
    savesInFlight[block] = nil
    outcome.saved.append(block)
  }
}

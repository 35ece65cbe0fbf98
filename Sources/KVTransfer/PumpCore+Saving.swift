internal import Glibc
internal import LocalStore
internal import RemoteG2Core

/// This rank's part of saving: its bytes of a block, into staging memory of its own connection.
extension PumpCore {
  /// Stages some blocks, or finds out that they cannot be.
  ///
  /// - Returns: Whether any block was dealt with.
  func saveSome(at now: LocalInstant) -> Bool {
    guard !saves.isEmpty else { return false }
    var staged: [(link: any StagingLink, blocks: [StagedBlock])] = []
    var done = 0
    for (save, since) in saves.prefix(Self.blocksPerRun) {
      // A store that was replaced meanwhile gets nothing that was meant for its predecessor.
      guard let link = local.link(to: .local(save.store)), takeFreed(link, of: save.store) else {
        finish(save, isStaged: false)
        if !report.unlinked.contains(save.store) { report.unlinked.append(save.store) }
        done += 1
        continue
      }
      guard let slot = stagingFree[save.store]?.popLast() else {
        guard now - since >= limits.stagingWaitMax else { break }
        finish(save, isStaged: false)
        done += 1
        continue
      }
      memcpy(
        link.pointer(to: slot), target.pointer(to: save.block.index), target.blockBytes)
      if staged.last?.link === link {
        staged[staged.count - 1].blocks.append(StagedBlock(slot: slot, key: save.key))
      } else {
        staged.append((link, [StagedBlock(slot: slot, key: save.key)]))
      }
      finish(save, isStaged: true)
      done += 1
    }
    saves.removeFirst(done)
    // Told before the leader hears of it, so that its commit never comes first for long.
    for (link, blocks) in staged where !link.send(.staged(blocks)) {
      for block in blocks {
        if let index = report.stagings.lastIndex(where: { $0.save.key == block.key }) {
          report.stagings[index] = StagingResult(save: report.stagings[index].save, isStaged: false)
        }
      }
    }
    return done > 0
  }

  private func finish(_ save: BlockSave, isStaged: Bool) {
    report.stagings.append(StagingResult(save: save, isStaged: isStaged))
    if !isStaged { counts.savesDropped += 1 }
  }

  /// - Returns: false when the connection has ended.
  private func takeFreed(_ link: any StagingLink, of store: Incarnation) -> Bool {
    guard let messages = link.receive() else { return false }
    for case .freed(let slots) in messages {
      stagingFree[store]? += slots.filter { $0 < UInt32(clamping: link.slotCount) }
    }
    return true
  }
}

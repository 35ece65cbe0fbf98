public import RemoteG2Core

/// Publication: sealed in G1 → offered to the own store → staged by every rank → committed → sealed there.
extension RemoteG2Connector {
  /// The own store, once every rank can stage for it.
  private var saveTarget: SourceID? {
    guard let local = control.localStore, sources.isAttached(local) else { return nil }
    return local
  }

  public func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex] {
    guard !isOff, !blocks.isEmpty else { return [] }
    let target = saveTarget
    let (held, batch, keys) = saves.offer(blocks, to: target)
    if let target, !keys.isEmpty { control.post(.offer(batch: batch, target, keys: keys)) }
    return held
  }

  public func unsaved(atMost most: Int, at now: LocalInstant) -> [UnsavedBlock] {
    guard saves.unsavedCount > 0, !isOff, saveTarget != nil else { return [] }
    return saves.takeUnsaved(atMost: most).map { UnsavedBlock(key: $0.key, parent: $0.parent) }
  }

  func wanted(_ batch: UInt64, _ source: SourceID, _ places: [Int]) {
    let (ordered, released) = saves.wanted(batch, source, places)
    outcome.released += released
    if !ordered.isEmpty { orders.append(.stage(ordered)) }
  }

  func absorbSaves(_ report: RankReport) {
    guard !report.stagings.isEmpty else { return }
    var commits: [SourceID: [CommittedBlock]] = [:]
    var withdrawals: [SourceID: [BlockKey]] = [:]
    for staging in report.stagings {
      switch saves.staged(staging) {
      case .waiting: break
      case .commit(let source, let block, let held):
        commits[source, default: []].append(block)
        outcome.released.append(held)
      case .withdraw(let source, let key, let held):
        withdrawals[source, default: []].append(key)
        outcome.released.append(held)
      }
    }
    for (source, blocks) in commits { control.post(.commit(source, blocks)) }
    for (source, keys) in withdrawals { control.post(.withdraw(source, keys)) }
  }
}

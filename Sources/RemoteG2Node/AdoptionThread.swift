internal import ContentDigest
internal import LocalStore
internal import OSThreads
internal import RemoteG2Core

/// Looks at every block that was taken over whether it is what it was sealed as. Until then nobody is told of it.
final class AdoptionThread: Sendable {
  struct Taken: Sendable {
    let number: PoolNumber
    let pool: KeptPool
    let kept: [KeptSlot]
  }

  private let isStopping = Guarded(false)
  private let thread = Guarded<OSThread?>(nil)

  init(
    _ board: NodeBoard, _ taken: [Taken], _ keeper: KeeperLink?,
    log: @escaping @Sendable (String) -> Void
  ) {
    guard !taken.isEmpty else {
      keeper?.settled()
      return
    }
    // Each is let go of when it is done.
    let left = Guarded(taken)
    // What is asked for goes before what might be.
    let started = OSThread.start("adoption", nice: 5) { [isStopping] in
      while let one = left.withLock({ $0.popLast() }) {
        // What was used last is wanted first.
        let all = one.kept.sorted { $0.use.lastUse > $1.use.lastUse }
        for (place, kept) in all.enumerated() {
          if isStopping.withLock({ $0 }) { return }
          // It has made room for another.
          guard board.pools(one.number) != nil else {
            board.withCore { $0.notVerified(all.count - place) }
            break
          }
          let isRight = Self.isRight(kept, one.pool)
          if !isRight {
            // Nobody takes it for what was, over the old mapping either.
            for rank in one.pool.ranks { rank.words.beginWriting(kept.slot, kept.generation &+ 1) }
          }
          board.advance { core, _ in core.verified(kept, in: one.number, isRight: isRight) }
        }
      }
      keeper?.settled()
      let report = board.withCore { $0.adopting }
      log(
        "of the process before it has \(report?.adopted ?? 0) blocks again; "
          + "\(report?.refused ?? 0) were not what they should be")
    }
    thread.withLock { $0 = started }
  }

  private static func isRight(_ kept: KeptSlot, _ pool: KeptPool) -> Bool {
    pool.ranks.indices.allSatisfy { rank in
      let memory = pool.ranks[rank]
      let bytes = UnsafeRawBufferPointer(
        start: memory.pointer(to: kept.slot), count: memory.blockBytes)
      return ContentDigest.of(bytes, key: kept.key, rank: rank) == kept.digests[rank]
    }
  }

  func stop() {
    isStopping.withLock { $0 = true }
    thread.withLock { thread -> OSThread? in
      defer { thread = nil }
      return thread
    }?.join()
  }
}

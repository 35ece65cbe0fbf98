import KVConnector
import RemoteG2Core

/// What a settled load does to its request. After it, the request's state equals that of a fresh
/// request with the same valid prefix.
extension Scheduler: LoadRecovery {
  func resumeLoaded(_ result: LoadResult, at now: LocalInstant) {
    precondition(result.unquiet.isEmpty, "a load without a failure has blocks that are not quiet")
    apply(result, at: now)
  }

  func recomputeFailedLoad(_ result: LoadResult, at now: LocalInstant) -> Bool {
    apply(result, at: now)
    return true
  }

  func dropLoad(_ result: LoadResult, at now: LocalInstant) { apply(result, at: now) }

  private func apply(_ result: LoadResult, at now: LocalInstant) {
    if let gone = leaving.removeValue(forKey: result.request) {
      let unquiet = Set(result.unquiet)
      // Blocks still being written stay held, by the quarantine, until they are quiet.
      for block in gone.blocks.reversed() where !unquiet.contains(block) { pool.release(block) }
      gone.blocks = []
      end(gone, error: nil)
      return
    }
    // A fetch that ended before it had blocks changes nothing.
    guard let request = requests.first(where: { $0.spec.id == result.request }),
      request.phase == .loading
    else { return }
    account(for: result, in: request)
    var sealed: [SealedBlock] = []
    for block in result.valid {
      let position = request.sealedBlocks
      precondition(request.blocks[position] == block.block, "a loaded block is out of place")
      if pool.seal(block.block, as: block.key, digests: block.digests), !result.isLocal {
        sealed.append(sealedBlock(request, position))
      }
      request.sealedBlocks += 1
      request.computed += tokensPerBlock
    }
    offer(sealed, at: now)
    // Its next match may still find a peer for the rest.
    request.phase = .waiting
    let unquiet = Set(result.unquiet)
    guard let fresh = pool.allocate(unquiet.count) else {
      // No block to swap in: it keeps nothing, and waits for blocks, not for the peer.
      request.blocks.removeAll { unquiet.contains($0) }
      preempt(request)
      return
    }
    var replacements = fresh.makeIterator()
    request.blocks = request.blocks.map { block in
      guard unquiet.contains(block) else { return block }
      guard let next = replacements.next() else {
        preconditionFailure("one fresh block for each that is not quiet")
      }
      return next
    }
  }

  private func account(for result: LoadResult, in request: RunningRequest) {
    let kept = result.valid.count * tokensPerBlock
    request.account.settledAt = result.settledAt
    if let due = result.dueAt { request.account.dueAt = due }
    if result.isLocal {
      request.account.reloadedTokens += kept
    } else {
      request.account.pulledTokens += (result.valid.count + result.failed.count) * tokensPerBlock
      request.account.keptTokens += kept
    }
    // A connector with fetches of its own gives all its reasons when the request ends.
    if result.fetch == nil, let reason = result.reason { request.account.reasons.append(reason) }
  }

  func endRequest(_ request: RequestID, because reason: FallbackReason, at now: LocalInstant) {
    guard let request = requests.first(where: { $0.spec.id == request }) else { return }
    leave(request, error: .loadFailed(reason))
  }

  func giveBack(_ blocks: [BlockIndex]) {
    for block in blocks { pool.release(block) }
  }

  func loadingBlocks(of request: RequestID) -> [SealedBlock] {
    let loading = requests.first { $0.spec.id == request } ?? leaving[request]
    guard let loading, loading.phase == .loading else { return [] }
    return (loading.sealedBlocks..<loading.boundEnd).map {
      SealedBlock(block: loading.blocks[$0], key: loading.keys[$0])
    }
  }

  func requests(loadingInto blocks: Set<BlockIndex>) -> [RequestID] {
    requests.filter { request in
      request.phase == .loading && request.blocks.contains { blocks.contains($0) }
    }.map(\.spec.id)
  }
}

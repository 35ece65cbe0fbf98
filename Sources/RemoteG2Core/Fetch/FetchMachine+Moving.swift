extension FetchMachine {
  /// One rank told what has become of its transfers.
  package mutating func rankReported(
    _ rank: Int, _ progress: RankProgress, at now: LocalInstant
  ) -> [FetchAction] {
    precondition(ranks.indices.contains(rank), "this group has no rank \(rank)")
    let hadFailure = ranks.contains { $0.failure != nil }
    let landedBefore = ranks.map(\.landed).min() ?? 0
    var progress = progress
    // A proof, once given, stands: later reports carry only what changed since.
    progress.proved = progress.proved ?? ranks[rank].proved
    ranks[rank] = progress
    return machine.advance { [ranks, policy, isMapped] state in
      switch consume state {
      case .moving(let moving):
        let hasFailure = ranks.contains { $0.failure != nil }
        guard ranks.allSatisfy(\.isTerminal) else {
          if !hasFailure, let reason = Self.reasonToStop(moving, ranks, landedBefore) {
            // A source that fell silent is not waited for a second time; a slow one answers.
            return Self.prove(
              moving.lease, blocks: moving.blocks, ranks, policy, isMapped, reason,
              timeout: moving.deadlines.proof, at: now, sourceAnswers: reason == .outpaced,
              before: [.stopPosting])
          }
          // The first failure stops every rank; what is posted may still land.
          return Step(.moving(moving), hasFailure && !hadFailure ? [.stopPosting] : [])
        }
        let reason: FallbackReason? = hasFailure ? .transferFailed : nil
        return Self.prove(
          moving.lease, blocks: moving.blocks, ranks, policy, isMapped, reason,
          timeout: moving.deadlines.proof, at: now, sourceAnswers: true,
          before: hasFailure && !hadFailure ? [.stopPosting] : [])
      case .proving(let proving):
        guard proving.awaiting == .digests else { return Step(.proving(proving), []) }
        let proofs = ranks.compactMap(\.proved)
        guard proofs.count == ranks.count else { return Step(.proving(proving), []) }
        let valid = min(proving.landed, proofs.min() ?? 0)
        return Self.settled(
          proving.lease, valid: valid, of: proving.blocks, proving.reason ?? .notIntact, ranks)
      case .draining:
        return ranks.allSatisfy(\.isQuiet) ? Step(.closed, [.close]) : Step(.draining, [])
      // A last report may cross with the close it caused.
      case .closed: return Step(.closed, [])
      case .resolving: preconditionFailure("a rank moved before the grant")
      case .granted: preconditionFailure("a rank moved before it was told to")
      }
    }
  }

  /// The source's incarnation is known to be dead.
  package mutating func peerWentDown(at now: LocalInstant) -> [FetchAction] {
    machine.advance { [ranks, policy, isMapped] state in
      switch consume state {
      case .resolving(let resolving):
        let result = FetchResult(valid: 0, matched: 0, reason: .peerDown)
        return Step(.closed, [.release(resolving.lease.surrender()), .settle(result), .close])
      case .granted(let granted):
        let result = FetchResult(valid: 0, matched: 0, reason: .peerDown)
        return Step(.closed, [.release(granted.lease.surrender()), .settle(result), .close])
      case .moving(let moving):
        return Self.prove(
          moving.lease, blocks: moving.blocks, ranks, policy, isMapped, .peerDown,
          timeout: moving.deadlines.proof, at: now, sourceAnswers: false, before: [.stopPosting])
      case .proving(let proving):
        guard proving.awaiting == .confirm else { return Step(.proving(proving), []) }
        let (blocks, timeout) = (proving.blocks, proving.proofTimeout)
        let reason = proving.reason ?? .peerDown
        return Self.prove(
          proving.lease, blocks: blocks, ranks, policy, isMapped, reason, timeout: timeout,
          at: now, sourceAnswers: false)
      // A death noticed after the settle changes nothing that was decided.
      case .draining: return Step(.draining, [])
      case .closed: return Step(.closed, [])
      }
    }
  }

  /// The source answered a renewal: the lease is over. Nothing more is read under it.
  package mutating func leaseEnded(at now: LocalInstant) -> [FetchAction] {
    machine.advance { [ranks, policy, isMapped] state in
      switch consume state {
      case .granted(let granted):
        let result = FetchResult(valid: 0, matched: 0, reason: .leaseEnded)
        return Step(.closed, [.release(granted.lease.surrender()), .settle(result), .close])
      case .moving(let moving):
        // It remembers the generations for one TTL: what landed may still be confirmed.
        return Self.prove(
          moving.lease, blocks: moving.blocks, ranks, policy, isMapped, .leaseEnded,
          timeout: moving.deadlines.proof, at: now, sourceAnswers: true, before: [.stopPosting])
      // Everything was read; the proof that is under way judges it.
      case .proving(let proving): return Step(.proving(proving), [])
      // The renewal crossed with the release.
      case .draining: return Step(.draining, [])
      case .closed: return Step(.closed, [])
      case .resolving: preconditionFailure("a lease ended before its grant")
      }
    }
  }

  /// Judges deadlines. Call it after the ranks' reports have been absorbed, never before.
  package mutating func timePassed(at now: LocalInstant) -> [FetchAction] {
    machine.advance { [ranks, policy, isMapped, lateAfter] state in
      switch consume state {
      case .resolving(let resolving):
        if let waiting = Self.stillWaiting(resolving.waiting, lateAfter: lateAfter, at: now) {
          return Step(.resolving(Resolving(lease: resolving.lease, waiting: waiting)), [])
        }
        let unheard = resolving.lease.surrender()
        let result = FetchResult(valid: 0, matched: 0, reason: .resolveTimedOut)
        return Step(.closed, [.release(unheard), .settle(result), .close])
      case .moving(let moving):
        guard now >= moving.startedAt + moving.deadlines.hard else {
          return Step(.moving(moving), [])
        }
        // A source that let a deadline pass is not waited for a second time.
        return Self.prove(
          moving.lease, blocks: moving.blocks, ranks, policy, isMapped, .hardDeadline,
          timeout: moving.deadlines.proof, at: now, sourceAnswers: false, before: [.stopPosting])
      case .proving(let proving):
        if let waiting = Self.stillWaiting(proving.waiting, lateAfter: lateAfter, at: now) {
          let (blocks, landed) = (proving.blocks, proving.landed)
          let (awaiting, timeout) = (proving.awaiting, proving.proofTimeout)
          let reason = proving.reason
          return Step(
            .proving(
              Proving(
                lease: proving.lease, blocks: blocks, landed: landed, awaiting: awaiting,
                waiting: waiting, proofTimeout: timeout, reason: reason)), [])
        }
        let (blocks, timeout) = (proving.blocks, proving.proofTimeout)
        let reason = proving.reason ?? .notIntact
        switch proving.awaiting {
        case .confirm:
          return Self.prove(
            proving.lease, blocks: blocks, ranks, policy, isMapped, reason, timeout: timeout,
            at: now, sourceAnswers: false)
        case .digests:
          return Self.settled(proving.lease, valid: 0, of: blocks, reason, ranks)
        }
      case .granted(let granted): return Step(.granted(granted), [])
      case .draining: return Step(.draining, [])
      case .closed: return Step(.closed, [])
      }
    }
  }

  /// Why a move is to be stopped though nothing has failed; nil while it is worth going on.
  ///
  /// A rank says that it has stalled, by its own clock and only while its own pump ran on time. And at
  /// each landing the rest is weighed: at the pace seen so far, against computing it.
  private static func reasonToStop(
    _ moving: borrowing Moving, _ ranks: [RankProgress], _ landedBefore: Int
  ) -> FallbackReason? {
    if ranks.contains(where: { $0.stalledAt != nil }) { return .stalled }
    let landed = ranks.map(\.landed).min() ?? 0
    guard landed > landedBefore, landed < moving.blocks else { return nil }
    let active = ranks.map(\.active).max() ?? .zero
    let rest = moving.blocks - landed
    let moved = active.inSeconds / Double(landed) * Double(rest)
    let computed = moving.deadlines.recomputePerBlock.inSeconds * Double(rest)
    return moved > computed * (1 + moving.deadlines.regret) ? .outpaced : nil
  }

  /// What is left of a wait; nil when it is over. Our own lateness is not the source's: it extends
  /// the wait once.
  static func stillWaiting(
    _ waiting: Waiting, lateAfter: Duration, at now: LocalInstant
  ) -> Waiting? {
    if now < waiting.until { return waiting }
    let lateness = now - waiting.until
    guard lateness > lateAfter, waiting.grace > .zero else { return nil }
    return Waiting(until: now + min(lateness, waiting.grace), grace: .zero)
  }

  /// The source said which of the granted blocks have kept their bytes; nil when it could not be
  /// asked, or did not answer.
  package mutating func confirmAnswered(
    _ answer: ConfirmAnswer?, at now: LocalInstant
  ) -> [FetchAction] {
    machine.advance { [ranks, policy] state in
      switch consume state {
      case .proving(let proving):
        guard proving.awaiting == .confirm else { return Step(.proving(proving), []) }
        let (blocks, landed, timeout) = (proving.blocks, proving.landed, proving.proofTimeout)
        let intact: Int
        switch answer {
        case .intact(let count): intact = min(max(count, 0), landed)
        case .gone, nil: intact = 0
        }
        if intact == landed, policy == .off || policy == .onFailure {
          let reason = landed == blocks ? nil : proving.reason
          return Self.settled(proving.lease, valid: landed, of: blocks, reason, ranks)
        }
        let reason = proving.reason ?? (intact == landed ? nil : .notIntact)
        if policy == .off {
          return Self.settled(proving.lease, valid: intact, of: blocks, reason, ranks)
        }
        return Self.askDigests(
          proving.lease, blocks: blocks, landed: landed, reason, timeout: timeout, at: now, ranks)
      // The answer raced with a deadline, a death or a cancel that decided without it.
      case .moving(let moving): return Step(.moving(moving), [])
      case .draining: return Step(.draining, [])
      case .closed: return Step(.closed, [])
      case .resolving: preconditionFailure("a confirm before the grant")
      case .granted: preconditionFailure("a confirm before anything moved")
      }
    }
  }

  // MARK: Deciding

  /// From moving to the cheapest proof that can stand, or straight to the result.
  static func prove(
    _ lease: consuming HeldLease, blocks: Int, _ ranks: [RankProgress], _ policy: ProofPolicy,
    _ isMapped: Bool, _ reason: FallbackReason?, timeout: Duration, at now: LocalInstant,
    sourceAnswers: Bool, before: [FetchAction] = []
  ) -> Step<State, [FetchAction]> {
    let landed = min(blocks, ranks.map(\.landed).min() ?? 0)
    if landed == 0 {
      return settled(lease, valid: 0, of: blocks, reason ?? .transferFailed, ranks, before: before)
    }
    // Each copy out of a mapping compared the slot's word around it, which proves what a confirm would prove.
    if isMapped, policy != .always {
      return settled(
        lease, valid: landed, of: blocks, landed == blocks ? nil : reason, ranks, before: before)
    }
    if sourceAnswers, !isMapped {
      let id = lease.id
      let proving = Proving(
        lease: lease, blocks: blocks, landed: landed, awaiting: .confirm,
        waiting: Waiting(until: now + timeout, grace: timeout), proofTimeout: timeout,
        reason: reason)
      return Step(.proving(proving), before + [.confirm(id)])
    }
    if policy == .off {
      return settled(lease, valid: 0, of: blocks, reason ?? .notIntact, ranks, before: before)
    }
    return askDigests(
      lease, blocks: blocks, landed: landed, reason, timeout: timeout, at: now, ranks,
      before: before)
  }

  static func askDigests(
    _ lease: consuming HeldLease, blocks: Int, landed: Int, _ reason: FallbackReason?,
    timeout: Duration, at now: LocalInstant, _ ranks: [RankProgress], before: [FetchAction] = []
  ) -> Step<State, [FetchAction]> {
    if landed == 0 {
      return settled(lease, valid: 0, of: blocks, reason ?? .notIntact, ranks, before: before)
    }
    let proving = Proving(
      lease: lease, blocks: blocks, landed: landed, awaiting: .digests,
      waiting: Waiting(until: now + timeout, grace: timeout), proofTimeout: timeout, reason: reason)
    return Step(.proving(proving), before + [.checkDigests(leading: landed)])
  }

  static func settled(
    _ lease: consuming HeldLease, valid: Int, of blocks: Int, _ reason: FallbackReason?,
    _ ranks: [RankProgress], before: [FetchAction] = []
  ) -> Step<State, [FetchAction]> {
    // A rank that has not confirmed its stop may post between its last report and our order.
    let unquiet = Set(
      ranks.flatMap { rank in
        rank.isQuiet ? [] : rank.isStopped ? rank.unquiet : Array(min(rank.landed, blocks)..<blocks)
      }
    ).sorted()
    precondition(
      unquiet.allSatisfy { $0 >= valid }, "a block counts as valid while it may be written")
    let result = FetchResult(
      valid: valid, matched: blocks, unquiet: unquiet,
      reason: valid == blocks && reason != .cancelled ? nil : reason,
      lastLanding: ranks.compactMap(\.lastLanding).max())
    let actions = before + [.release(lease.surrender()), .settle(result)]
    if ranks.allSatisfy(\.isQuiet) { return Step(.closed, actions + [.close]) }
    return Step(.draining, actions)
  }
}

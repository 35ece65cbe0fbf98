/// The life of one request's fetch from one source, across all ranks.
///
///     resolving ─granted─▶ granted ─bound─▶ moving ─to be proved─▶ proving
///         └────────────────────┴───────────────┴──────settled─────────┴─▶ draining ─all quiet─▶ closed
///
/// A settle that finds every rank quiet goes straight to `closed`; before the bind it always does. A move is
/// over when every rank has landed or failed, or when it is stopped: a rank stalled, the pace is too slow,
/// the hard deadline came, the source died, or the lease ended. What has landed is then proved. A move
/// settles without a proof when it is cancelled, when nothing landed, when the words of a mapping have proved
/// it already, or when the policy forbids the only proof that is left.
///
/// It ends twice, once each: `settle` is the one result and waits for nothing; `close` comes when
/// no rank's memory can be written any more. The lease has its name before it is asked for. The settle
/// surrenders it and orders its release, also when the grant never came, but not when the source refused.
///
/// Holds no clock, socket, lock or continuation. Events are facts; each returns the orders to carry
/// out, empty where a fact changes nothing.
package struct FetchMachine: ~Copyable {
  enum State: ~Copyable {
    /// Asked the source. Can transition to: granted; closed (refused, late, cancelled, source dead).
    case resolving(Resolving)
    /// Has a lease, has no blocks. Can transition to: moving; closed (no blocks, cancelled, source dead,
    /// lease over).
    case granted(Granted)
    /// Ranks are reading. Can transition to: proving; draining or closed (cancelled, or nothing to prove).
    case moving(Moving)
    /// Nothing more is posted; finding out what to believe. Can transition to: draining, closed.
    case proving(Proving)
    /// Settled; some rank is not quiet. Can transition to: closed.
    case draining
    /// Settled, and every rank is quiet. The end.
    case closed
  }

  /// A question without an answer yet.
  struct Waiting {
    let until: LocalInstant
    /// How much longer it may take when our own timer was late; none the second time.
    let grace: Duration
  }

  struct Resolving: ~Copyable {
    let lease: HeldLease
    let waiting: Waiting
  }

  struct Granted: ~Copyable {
    let lease: HeldLease
    let blocks: Int
  }

  struct Moving: ~Copyable {
    let lease: HeldLease
    let blocks: Int
    let startedAt: LocalInstant
    let deadlines: FetchDeadlines
  }

  struct Proving: ~Copyable {
    let lease: HeldLease
    let blocks: Int
    let landed: Int
    let awaiting: Awaiting
    let waiting: Waiting
    let proofTimeout: Duration
    let reason: FallbackReason?
  }

  enum Awaiting { case confirm, digests }

  package let id: FetchID
  package let request: RequestID
  package let lease: LeaseID
  let policy: ProofPolicy
  /// The ranks compare the slots' words round their copies: what landed is of its generation.
  let isMapped: Bool
  /// Later than this, our own timer is to blame for a missed deadline.
  let lateAfter: Duration
  var ranks: [RankProgress]
  var machine: Machine<State>

  /// - Parameters:
  ///   - lease: The name under which the source is asked for one.
  ///   - isMapped: The source is read from a mapping, whose readers check the slots' words.
  ///   - timeout: How long the source may take to answer, from `now`.
  ///   - lateAfter: When a question (resolve, confirm, digests) is judged later than this after its deadline,
  ///     it gets as much time again as we were late, once, and at most its first time: the answer may be
  ///     waiting for the processor that we were holding. A move's hard deadline is never extended.
  package init(
    id: FetchID, request: RequestID, lease: LeaseID, rankCount: Int, policy: ProofPolicy,
    isMapped: Bool = false, at now: LocalInstant, resolveTimeout timeout: Duration,
    lateAfter: Duration
  ) {
    precondition(rankCount > 0, "a group has at least one rank")
    self.id = id
    self.request = request
    self.lease = lease
    self.isMapped = isMapped
    self.policy = policy
    ranks = Array(repeating: RankProgress(), count: rankCount)
    self.lateAfter = lateAfter
    machine = Machine(
      .resolving(
        Resolving(
          lease: HeldLease(lease), waiting: Waiting(until: now + timeout, grace: timeout))))
  }

  // MARK: Events before anything moves

  package mutating func resolveGranted(blocks: Int) -> [FetchAction] {
    precondition(blocks > 0, "a grant of nothing is a refusal")
    return machine.advance { state in
      switch consume state {
      case .resolving(let resolving):
        return Step(
          .granted(Granted(lease: resolving.lease, blocks: blocks)), [.bind(blocks: blocks)])
      // The grant raced with our deadline or with a cancel, which released the lease by its name.
      case .closed: return Step(.closed, [])
      case .granted: preconditionFailure("two grants for one resolve")
      case .moving: preconditionFailure("two grants for one resolve")
      case .proving: preconditionFailure("two grants for one resolve")
      case .draining: preconditionFailure("two grants for one resolve")
      }
    }
  }

  /// - Parameter isRefused: The source said so, and granted nothing; else it may have, unheard.
  package mutating func resolveRefused(
    _ reason: FallbackReason, isRefused: Bool
  ) -> [FetchAction] {
    machine.advance { state in
      switch consume state {
      case .resolving(let resolving):
        let lease = resolving.lease.surrender()
        let result = FetchResult(valid: 0, matched: 0, reason: reason)
        return Step(.closed, (isRefused ? [] : [.release(lease)]) + [.settle(result), .close])
      // The refusal raced with our deadline or with a cancel.
      case .closed: return Step(.closed, [])
      case .granted: preconditionFailure("a refusal after a grant")
      case .moving: preconditionFailure("a refusal after a grant")
      case .proving: preconditionFailure("a refusal after a grant")
      case .draining: preconditionFailure("a refusal after a grant")
      }
    }
  }

  /// The engine gave target blocks: for the whole grant, or for the part of it that still follows
  /// the request's local prefix.
  package mutating func bound(
    blocks: Int, at now: LocalInstant, deadlines: FetchDeadlines
  ) -> [FetchAction] {
    precondition(blocks > 0, "bound to nothing")
    for rank in ranks.indices { ranks[rank].posting = .open }
    return machine.advance { state in
      switch consume state {
      case .granted(let granted):
        precondition(blocks <= granted.blocks, "bound beyond the grant")
        let moving = Moving(
          lease: granted.lease, blocks: blocks, startedAt: now, deadlines: deadlines)
        return Step(.moving(moving), [.start(blocks: blocks)])
      case .resolving: preconditionFailure("bound before the grant")
      case .moving: preconditionFailure("bound twice")
      case .proving: preconditionFailure("bound twice")
      case .draining: preconditionFailure("bound after the end")
      case .closed: preconditionFailure("bound after the end")
      }
    }
  }

  /// The engine has no blocks to land in.
  package mutating func bindRefused() -> [FetchAction] {
    machine.advance { state in
      switch consume state {
      case .granted(let granted):
        let result = FetchResult(valid: 0, matched: 0, reason: .noBlocks)
        return Step(.closed, [.release(granted.lease.surrender()), .settle(result), .close])
      case .resolving: preconditionFailure("no blocks before the grant")
      case .moving: preconditionFailure("no blocks after bound")
      case .proving: preconditionFailure("no blocks after bound")
      case .draining: preconditionFailure("no blocks after the end")
      case .closed: preconditionFailure("no blocks after the end")
      }
    }
  }

  /// The request is no longer wanted.
  package mutating func cancelled() -> [FetchAction] {
    machine.advance { [ranks] state in
      switch consume state {
      case .resolving(let resolving):
        let result = FetchResult(valid: 0, matched: 0, reason: .cancelled)
        return Step(.closed, [.release(resolving.lease.surrender()), .settle(result), .close])
      case .granted(let granted):
        let result = FetchResult(valid: 0, matched: 0, reason: .cancelled)
        return Step(.closed, [.release(granted.lease.surrender()), .settle(result), .close])
      case .moving(let moving):
        return Self.settled(
          moving.lease, valid: 0, of: moving.blocks, .cancelled, ranks, before: [.stopPosting])
      case .proving(let proving):
        return Self.settled(proving.lease, valid: 0, of: proving.blocks, .cancelled, ranks)
      // Cancelling twice, or just after the end, is an ordinary race with the engine.
      case .draining: return Step(.draining, [])
      case .closed: return Step(.closed, [])
      }
    }
  }

  // MARK: Queries

  /// The state without what it owns.
  enum Phase: Equatable { case resolving, granted, moving, confirming, checking, draining, closed }

  var phase: Phase {
    machine.read { state in
      switch state {
      case .resolving: .resolving
      case .granted: .granted
      case .moving: .moving
      case .proving(let proving):
        switch proving.awaiting {
        case .confirm: .confirming
        case .digests: .checking
        }
      case .draining: .draining
      case .closed: .closed
      }
    }
  }

  /// Settled, and every rank quiet.
  package var isClosed: Bool { phase == .closed }
  package var isMoving: Bool { phase == .moving }
  package var isSettled: Bool { phase == .draining || phase == .closed }
  /// Where the machine is, for tables and logs.
  package var stateName: String { "\(phase)" }

  /// The moment ``timePassed(at:)`` next has something to decide.
  package var nextDeadline: LocalInstant? {
    machine.read { state in
      switch state {
      case .resolving(let resolving): resolving.waiting.until
      case .moving(let moving): moving.startedAt + moving.deadlines.hard
      case .proving(let proving): proving.waiting.until
      case .granted: nil
      case .draining: nil
      case .closed: nil
      }
    }
  }

  /// After the settle, when no rank will post any more: the positions still being written.
  package var unquietOnceStopped: Set<Int>? {
    guard phase == .draining, ranks.allSatisfy({ $0.isQuiet || $0.isStopped }) else { return nil }
    return Set(ranks.flatMap { $0.isQuiet ? [] : $0.unquiet })
  }

  var lastLanding: LocalInstant? { ranks.compactMap(\.lastLanding).max() }
}

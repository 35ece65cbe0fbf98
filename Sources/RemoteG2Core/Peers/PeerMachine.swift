/// One peer's life as this engine sees it: who answers at its address, and whether it is to be asked.
///
///     unmet ─introduced─▶ living ─handshake missed─▶ silent ─minutes─▶ unmet, given up
///       ▲                  │  ▲  ─refused─▶ doubted ─refused again and again─▶ unmet, dead
///       │                  │  └─── introduced under the same name: the same incarnation lives ───┘
///       └──────────────────┴─ introduced under the same name as another incarnation: dead, and living
///
/// Either of two signs is a death: refusals over time, or another incarnation under the same name. One that
/// is given up after minutes without a good handshake is told as dead too. An incarnation that introduces
/// itself lives, whatever was thought of it before. A peer that may not share (`refused`), and one that some
/// rank could not attach (`unmet` until it is announced again), are not drawn.
package struct PeerMachine: Equatable, Sendable {
  package enum Standing: Equatable, Sendable {
    /// No store has introduced itself, or the one that did is dead.
    case unmet
    case living
    /// Calls were refused; a few more of those over a while, and it is dead.
    case doubted(refusals: Int, since: LocalInstant)
    /// It neither answers nor refuses.
    case silent
    /// It answered, and may not share with us.
    case refused(Fingerprint.Mismatch)
  }

  package enum Order: Equatable, Sendable {
    /// Send a handshake. Its outcome is told with the same number.
    case ask(UInt64)
    case announce(SourceID, [RankPool])
    case declareDead(SourceID)
  }

  package let name: PeerName
  private let ours: Fingerprint
  private let limits: Limits
  package private(set) var standing = Standing.unmet
  package private(set) var breaker: PeerBreaker
  /// The incarnation that was announced and is not known to be dead.
  package private(set) var known: Incarnation?
  /// Since when it is known and does not live: noticed as time passes.
  private var absence: Silence?
  /// Handshakes are numbered. One that was asked before a death says nothing after it.
  private var askNext: UInt64 = 1
  private var asking: UInt64?
  /// What is being asked was asked before a death that was noticed since.
  private var isAskStale = false
  private var askAt: LocalInstant
  /// An incarnation that some rank could not attach is announced again after a while that doubles.
  private var unattached: Incarnation?
  private var attachFailures = 0
  private var announceAt: LocalInstant?

  package init(name: PeerName, as fingerprint: Fingerprint, limits: Limits, at now: LocalInstant) {
    self.name = name
    ours = fingerprint
    self.limits = limits
    breaker = PeerBreaker(limits: limits, at: now)
    askAt = now
  }

  // MARK: Events

  /// The handshake of that number was answered.
  package mutating func introduced(
    _ introduction: Introduction, to ask: UInt64, at now: LocalInstant
  ) -> [Order] {
    breaker.answered(at: now)
    guard asking == ask else { return [] }
    asking = nil
    // Asked again, it answers who lives now.
    if isAskStale {
      isAskStale = false
      askAt = now
      return []
    }
    if introduction.name != name {
      // Somebody else's address, or a proxy's: it says nothing about who was here.
      return refuse("name", name.text, introduction.name.text, at: now)
    }
    var orders: [Order] = []
    // One that could not be attached is dead too: some ranks may have attached it.
    if let last = known ?? unattached, last != introduction.incarnation {
      orders = [die(last)]
    }
    if let mismatch = ours.mismatch(with: introduction.fingerprint) {
      return orders + refuse(mismatch.field, mismatch.ours, mismatch.theirs, at: now)
    }
    if introduction.pools.isEmpty {
      return orders
        + refuse("transport", "NIXL", "none: start it where NIXL is installed", at: now)
    }
    guard introduction.pools.count == Int(ours.rankCount),
      introduction.pools.allSatisfy({ $0.metadata.count <= limits.metadataBytesMax })
    else {
      return orders
        + refuse(
          "pools", "\(ours.rankCount), of at most \(limits.metadataBytesMax) bytes",
          "\(introduction.pools.map(\.metadata.count))", at: now)
    }
    askAt = now + limits.peerHeartbeat
    if known == nil {
      if unattached == introduction.incarnation, let announceAt, announceAt > now {
        askAt = min(askAt, announceAt)
        return orders
      }
      known = introduction.incarnation
      orders.append(
        .announce(.peer(name: name, introduction.incarnation), introduction.pools))
    }
    standing = .living
    return orders
  }

  /// The handshake of that number was not answered as it should.
  ///
  /// - Parameters:
  ///   - lateness: How late our own timer judged it.
  ///   - chance: From 0 to 1, so that a fleet does not come back in step.
  package mutating func askFailed(
    _ ask: UInt64, _ failure: CallFailure, lateness: Duration, at now: LocalInstant, chance: Double
  ) -> [Order] {
    let orders = callFailed(failure, lateness: lateness, at: now, chance: chance)
    guard asking == ask else { return orders }
    asking = nil
    isAskStale = false
    askAt = now + limits.breakerBackoffMin
    switch standing {
    // Nobody new is sent to a peer that cannot be greeted, and nothing of it is fenced.
    case .living: standing = .silent
    case .unmet, .doubted, .silent, .refused: break
    }
    return orders
  }

  /// Any other call was answered, in whatever words. It does not say by whom.
  package mutating func answered(at now: LocalInstant) { breaker.answered(at: now) }

  /// Any call was not answered as it should.
  package mutating func callFailed(
    _ failure: CallFailure, lateness: Duration, at now: LocalInstant, chance: Double
  ) -> [Order] {
    switch failure {
    // Nonsense is an answer, and so is a store that says it is starting.
    case .starting, .invalid:
      breaker.answered(at: now)
      return []
    case .timedOut, .unavailable:
      breaker.missed(at: now, lateness: lateness, chance: chance)
      return []
    case .refused:
      breaker.refused(at: now, chance: chance)
      return refusedConnection(at: now)
    }
  }

  /// A rank could not attach what was announced.
  package mutating func attachFailed(_ source: SourceID, at now: LocalInstant) {
    // It died, or was announced again, meanwhile.
    guard known == source.incarnation else { return }
    if unattached != source.incarnation { attachFailures = 0 }
    unattached = source.incarnation
    let pause = limits.breakerBackoffMin * (1 << min(attachFailures, 10))
    announceAt = now + min(pause, limits.breakerBackoffMax)
    attachFailures += 1
    known = nil
    standing = .unmet
    askAt = min(askAt, announceAt ?? askAt)
  }

  /// Time passed: it may be time to ask, or to give up.
  ///
  /// - Parameter lateness: How much later this is than ``nextDeadline``: our pause is not its silence.
  package mutating func timePassed(at now: LocalInstant, lateness: Duration) -> [Order] {
    var orders: [Order] = []
    if let known, standing != .living {
      var silence = absence ?? Silence(since: now)
      let isOver = silence.isOver(
        after: limits.peerVanishedMax, lateness: absence == nil ? .zero : lateness, limits, at: now)
      absence = silence
      if isOver { orders.append(die(known)) }
    } else {
      absence = nil
    }
    if asking == nil, askAt <= now, breaker.mayAsk(at: now) {
      asking = askNext
      askNext += 1
      orders.append(.ask(askNext - 1))
    }
    return orders
  }

  // MARK: Queries

  /// When ``timePassed(at:lateness:)`` next has something to do; nil while it waits for an answer.
  package var nextDeadline: LocalInstant? {
    var next: LocalInstant?
    if asking == nil { next = breaker.retryAt.map { max($0, askAt) } ?? askAt }
    if known != nil, standing != .living {
      let since = absence.map { $0.since + limits.peerVanishedMax }
      next = [next, since].compactMap { $0 }.min()
    }
    return next
  }

  package var state: PeerState {
    if case .refused(let mismatch) = standing { return .refused(mismatch) }
    guard breaker.isClosed else { return .off }
    guard standing == .living, let known else { return .notReady }
    return .ready(.peer(name: name, known))
  }

  // MARK: Private

  private mutating func refusedConnection(at now: LocalInstant) -> [Order] {
    guard let known else {
      // Nobody is there to be doubted.
      standing = .unmet
      return []
    }
    switch standing {
    case .doubted(let refusals, let since):
      let isDead =
        refusals + 1 >= limits.deathRefusalsMin && now - since >= limits.deathRefusalsSpan
      standing = .doubted(refusals: refusals + 1, since: since)
      return isDead ? [die(known)] : []
    case .unmet, .living, .silent, .refused:
      standing = .doubted(refusals: 1, since: now)
      return []
    }
  }

  private mutating func die(_ incarnation: Incarnation) -> Order {
    known = nil
    if unattached == incarnation { unattached = nil }
    absence = nil
    standing = .unmet
    isAskStale = asking != nil
    return .declareDead(.peer(name: name, incarnation))
  }

  private mutating func refuse(
    _ field: String, _ ours: String, _ theirs: String, at now: LocalInstant
  ) -> [Order] {
    standing = .refused(Fingerprint.Mismatch(field: field, ours: ours, theirs: theirs))
    askAt = now + limits.peerRefusedPause
    return []
  }
}

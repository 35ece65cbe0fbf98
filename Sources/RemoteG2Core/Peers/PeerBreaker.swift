/// Whether a peer is worth asking, from what its calls came to. One per peer, shared by all fetches
/// and ranks, so that a death is noticed once.
///
///     closed ─refused, or 3 misses in a row and 1 s of silence─▶ open ─back-off over─▶ probing
///       ▲───────────────────── any answer of any kind ─────────────┴──────────────────────┘
///
/// Holds no clock and no chance: both are arguments.
public struct PeerBreaker: Equatable, Sendable {
  public enum Phase: Equatable, Sendable {
    case closed
    /// Nobody asks before `until`.
    case open(until: LocalInstant)
    /// One call is under way to find out; nobody else asks.
    case probing
  }

  public private(set) var phase = Phase.closed
  /// Deadlines that passed without an answer, and that were the peer's doing.
  public private(set) var peerSilent: UInt64 = 0
  /// Deadlines that passed while our own timer was late: they say nothing about the peer.
  public private(set) var weWereLate: UInt64 = 0
  public private(set) var openedCount: UInt64 = 0
  private var missesInRow = 0
  private var backoff: Duration
  private var lastAnswer: LocalInstant
  private let limits: Limits

  /// - Parameter now: When the peer became known; its silence is counted from here.
  public init(limits: Limits, at now: LocalInstant) {
    self.limits = limits
    backoff = limits.breakerBackoffMin
    lastAnswer = now
  }

  // MARK: Events

  /// It said anything at all, also no.
  public mutating func answered(at now: LocalInstant) {
    phase = .closed
    missesInRow = 0
    backoff = limits.breakerBackoffMin
    lastAnswer = now
  }

  /// The connection was refused or reset: nothing is there.
  ///
  /// - Parameter chance: From 0 to 1, so that a fleet does not come back in step.
  public mutating func refused(at now: LocalInstant, chance: Double) {
    missesInRow += 1
    open(at: now, chance)
  }

  /// A call's deadline passed.
  ///
  /// - Parameter lateness: How late our own timer fired.
  public mutating func missed(at now: LocalInstant, lateness: Duration, chance: Double) {
    guard lateness <= limits.timerLatenessMax else {
      weWereLate += 1
      if phase == .probing { open(at: now, chance) }
      return
    }
    peerSilent += 1
    missesInRow += 1
    let isSilent = now - lastAnswer >= limits.breakerSilence
    if phase == .probing || (missesInRow >= limits.breakerMissesMax && isSilent) {
      open(at: now, chance)
    }
  }

  /// Somebody is about to ask.
  ///
  /// - Returns: Whether it may. While the breaker is open the first to ask after the back-off is the
  ///   one probe.
  public mutating func mayAsk(at now: LocalInstant) -> Bool {
    switch phase {
    case .closed: return true
    case .probing: return false
    case .open(let until):
      guard now >= until else { return false }
      phase = .probing
      return true
    }
  }

  public var isClosed: Bool { phase == .closed }
  /// While it is open: when the next probe may go.
  public var retryAt: LocalInstant? {
    if case .open(let until) = phase { until } else { nil }
  }

  private mutating func open(at now: LocalInstant, _ chance: Double) {
    // Many calls to one dead peer fail together: that is one death.
    if case .open = phase { return }
    if phase == .closed { openedCount += 1 }
    // Half to all of the back-off.
    let share = 0.5 + 0.5 * min(max(chance, 0), 1)
    phase = .open(until: now + .nanoseconds(Int64(Double(backoff.nanoseconds) * share)))
    backoff = min(backoff * 2, limits.breakerBackoffMax)
  }
}

/// Who keeps a node's memory decides here when another process may serve from it.
///
///     starting ─serves─▶ serving ─ended, seen to─▶ (pause) ─▶ starting, with the files
///         └─30 s, killed─▶ dying ◀─connection ended─┘
///                            └─2 s─▶ starting, without them
///
/// The files are handed on only after the process that could write them was seen to have ended. One that ends twice
/// before it has served for a while may do so because of what is in them: the next one begins with nothing.
package struct KeeperMachine: Sendable {
  package enum Order: Equatable, Sendable {
    /// Start a process, and hand it the files that are kept.
    case start(life: Int)
    /// Close all files.
    case forget
    /// Tell it to end, as the keeper was told.
    case tellToEnd
    /// Kill the one that serves.
    case kill
    case tell(String)
    /// Nothing is left to do.
    case end(status: Int32)
  }

  private enum Phase {
    /// It has not said yet that it can be reached.
    case starting(until: LocalInstant)
    case serving(since: LocalInstant)
    /// Its end of the connection is closed, or it was killed, and it was not seen to have ended.
    case dying(since: LocalInstant?, until: LocalInstant)
    case pausing(until: LocalInstant)
    case over
  }

  private let limits: Limits
  private var phase = Phase.over
  private var life = 0
  private var hasServed = false
  private var shortLives = 0
  /// What the one that serves took over has been looked at, all of it.
  private var isSettled = false
  private var failedStarts = 0
  /// Told to end; until when whoever serves may take for it.
  private var endsBy: LocalInstant?

  package init(limits: Limits) { self.limits = limits }

  package mutating func began(at now: LocalInstant) -> [Order] { start(at: now) }

  private mutating func start(at now: LocalInstant) -> [Order] {
    life += 1
    isSettled = false
    phase = .starting(until: now + limits.serveStartMax)
    return [.start(life: life)]
  }

  /// The system has no room for another process now. Nothing that is kept can be the cause.
  package mutating func couldNotStart(at now: LocalInstant) -> [Order] {
    guard hasServed, endsBy == nil else { return over(1) }
    life -= 1
    phase = .pausing(until: now + pause(failedStarts))
    failedStarts += 1
    return []
  }

  private func pause(_ number: Int) -> Duration {
    min(limits.restartPause * (1 << min(number, 10)), limits.restartPauseMax)
  }

  package mutating func settled() { isSettled = true }

  /// It says that it can be reached.
  package mutating func serves(at now: LocalInstant) {
    guard case .starting = phase else { return }
    hasServed = true
    failedStarts = 0
    phase = .serving(since: now)
  }

  package mutating func connectionEnded(at now: LocalInstant) {
    // It may be about to end as it should.
    switch phase {
    case .starting: phase = .dying(since: nil, until: now + limits.reapMax)
    case .serving(let since): phase = .dying(since: since, until: now + limits.reapMax)
    case .dying, .pausing, .over: break
    }
  }

  /// It has ended, and nothing of it is left.
  ///
  /// - Parameter status: 128 + n for signal n.
  package mutating func reaped(_ status: Int32, at now: LocalInstant) -> [Order] {
    let since: LocalInstant?
    switch phase {
    case .starting: since = nil
    case .serving(let start): since = start
    case .dying(let start, _): since = start
    // One that was given up, at last.
    case .pausing, .over: return []
    }
    // What it was told to do, or what is wrong with how it is started: it has said so.
    if endsBy != nil || status == 0 || !hasServed { return over(status) }
    let served = since.map { now - $0 } ?? .zero
    return follow("ended (\(Self.words(status)))", after: served, isGone: true, at: now)
  }

  private mutating func over(_ status: Int32) -> [Order] {
    phase = .over
    return [.end(status: status)]
  }

  private static func words(_ status: Int32) -> String {
    status > 128 ? "signal \(status - 128)" : "status \(status)"
  }

  private mutating func follow(
    _ what: String, after served: Duration, isGone: Bool, at now: LocalInstant
  ) -> [Order] {
    shortLives = served < limits.lifeShortMax || !isSettled ? shortLives + 1 : 0
    let isDoubted = shortLives >= 2
    let with = isGone && !isDoubted ? "what it held" : "nothing, because it "
    let why =
      isGone
      ? "ended twice before it had served for \(limits.lifeShortMax.inSeconds) s and looked at it all"
      : "may still write"
    var orders: [Order] = [
      .tell(
        "the process that served \(what); another begins with \(with)\(isGone && !isDoubted ? "" : why)"
      )
    ]
    if !isGone || isDoubted { orders.append(.forget) }
    guard isDoubted else { return orders + start(at: now) }
    phase = .pausing(until: now + pause(shortLives - 2))
    return orders
  }

  package mutating func toldToEnd(at now: LocalInstant) -> [Order] {
    guard endsBy == nil else { return [] }
    endsBy = now + limits.drainMax + limits.reapMax
    switch phase {
    case .starting, .serving, .dying: return [.tellToEnd]
    case .pausing, .over: return over(0)
    }
  }

  package mutating func timePassed(at now: LocalInstant) -> [Order] {
    if let by = endsBy, by <= now {
      let by = now + limits.reapMax
      switch phase {
      case .starting: phase = .dying(since: nil, until: by)
      case .serving(let since): phase = .dying(since: since, until: by)
      case .dying, .pausing, .over: return over(1)
      }
      // Once more, for the kill to be seen.
      endsBy = by
      return [.kill]
    }
    switch phase {
    case .starting(let until) where until <= now:
      phase = .dying(since: nil, until: now + limits.reapMax)
      return [
        .kill,
        .tell(
          "the process that was to serve did not within \(limits.serveStartMax.inSeconds) s: killed"
        ),
      ]
    case .dying(let since, let until) where until <= now && endsBy == nil:
      // Nobody can be started better than the first.
      guard hasServed else { return [.kill] + over(1) }
      let served = since.map { now - $0 } ?? .zero
      return [.kill]
        + follow("cannot be seen to end", after: served, isGone: false, at: now)
    case .pausing(let until) where until <= now: return start(at: now)
    default: return []
    }
  }

  package var nextDeadline: LocalInstant? {
    let own: LocalInstant? =
      switch phase {
      case .dying(_, let until): endsBy == nil ? until : nil
      case .starting(let until), .pausing(let until): until
      case .serving, .over: nil
      }
    return [own, endsBy].compactMap { $0 }.min()
  }
}

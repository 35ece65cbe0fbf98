/// The engine's own store as its leader sees it: a connection that comes and goes.
///
///     absent ─connected─▶ greeting ─welcome─▶ attached
///       ▲                    │ refused, late     │ closed, silent
///       └────────────────────┴───────────────────┘
///
/// Whatever was under way over a connection is lost with it; a store that hangs is as good as gone until
/// it answers again. Nothing that a rank reads from a mapping needs more than that.
package struct OwnStore: Equatable, Sendable {
  package enum State: Equatable, Sendable {
    case absent
    /// Connected; it has not said who it is.
    case greeting(Silence)
    case attached(Incarnation)
  }

  package enum Order: Equatable, Sendable {
    case connect
    case send(LocalMessage)
    case close
    case answer(ControlAnswer)
    /// The store that is there cannot be used: it is to be replaced.
    case tellUnusable(String)
  }

  /// A question to the store that is not answered yet.
  private struct Question: Equatable, Sendable {
    let fetch: FetchID
    let askedAt: LocalInstant
    var blocks: [GrantedBlock] = []
  }

  package let engine: Incarnation
  private let fingerprint: Fingerprint
  private let blockBytes: Int
  private let socket: String
  private let limits: Limits
  package private(set) var state = State.absent
  private var connectAt: LocalInstant
  private var retryPause: Duration
  private var questions: [UInt64: Question] = [:]
  private var pingNext: UInt64 = 1
  private var pingAt: LocalInstant?
  /// A ping without an answer.
  private var pinged: Silence?
  private var isUnattached = false

  /// - Parameters:
  ///   - blockBytes: Of one block on one rank; 0: the store knows.
  ///   - socket: Where every rank finds the store.
  package init(
    engine: Incarnation, as fingerprint: Fingerprint, blockBytes: Int = 0, socket: String,
    limits: Limits, at now: LocalInstant
  ) {
    self.blockBytes = blockBytes
    self.engine = engine
    self.fingerprint = fingerprint
    self.socket = socket
    self.limits = limits
    connectAt = now
    retryPause = limits.ownRetryMin
  }

  package var source: SourceID? {
    if case .attached(let incarnation) = state { .local(incarnation) } else { nil }
  }

  // MARK: Requests

  package mutating func post(_ request: ControlRequest, at now: LocalInstant) -> [Order] {
    switch request {
    case .resolve(let fetch, let source, let lease, let keys, _):
      guard source == self.source, !keys.isEmpty else {
        return [.answer(.resolved(fetch, nil, after: .zero))]
      }
      questions[lease.serial] = Question(fetch: fetch, askedAt: now)
      return Self.pages(keys) { .lookup(lease: lease.serial, keys: $0, isLast: $1) }
    case .want(let fetch, let source, let lease, let keys, let pace):
      guard source == self.source, !keys.isEmpty else {
        return [.answer(.resolved(fetch, nil, after: .zero))]
      }
      questions[lease.serial] = Question(fetch: fetch, askedAt: now)
      return Self.pages(keys) { .want(lease: lease.serial, keys: $0, isLast: $1, pace: pace) }
    case .release(let source, let lease):
      questions[lease.serial] = nil
      return source == self.source ? [.send(.release(lease: lease.serial))] : []
    case .offer(let batch, let source, let keys):
      guard source == self.source else { return [] }
      return [.send(.offer(batch: batch, keys: keys))]
    case .commit(let source, let blocks):
      guard source == self.source else { return [] }
      // Few enough for a packet, whatever digests they carry.
      let page = LocalCodec.blocksPerPage(ranks: Int(fingerprint.rankCount))
      return stride(from: 0, to: blocks.count, by: page).map {
        .send(.commit(Array(blocks[$0..<min($0 + page, blocks.count)])))
      }
    case .withdraw(let source, let keys):
      return source == self.source ? [.send(.withdraw(keys))] : []
    case .settled(let source, let step):
      return source == self.source ? [.send(.settled(step: step))] : []
    case .confirm(let fetch, _, _, _):
      // What is read from a mapping is proved by the slots' words.
      return [.answer(.confirmed(fetch, nil))]
    }
  }

  // MARK: Events

  package mutating func connected(at now: LocalInstant) -> [Order] {
    guard state == .absent else { return [.close] }
    state = .greeting(Silence(since: now))
    return [
      .send(
        .hello(
          LocalHello(
            engine: engine, role: .leader, fingerprint: fingerprint, stagingSlots: 0,
            blockBytes: blockBytes)))
    ]
  }

  /// Nobody listens, or the connection ended.
  package mutating func disconnected(at now: LocalInstant) -> [Order] {
    let orders = lose()
    connectAt = now + retryPause
    retryPause = min(retryPause * 2, limits.ownRetryMax)
    return orders
  }

  package mutating func received(_ message: LocalMessage, at now: LocalInstant) -> [Order] {
    // Any message is a sign of life.
    pinged = nil
    switch (message, state) {
    // It was read before the connection was closed.
    case (_, .absent): return []
    case (.welcome(let welcome), .greeting):
      guard welcome.rankCount == Int(fingerprint.rankCount), welcome.slotCount > 0,
        welcome.slotCount <= limits.slotsMax, welcome.blockBytes > 0
      else { return giveUp("its pools are impossible: \(welcome)", at: now) }
      state = .attached(welcome.store)
      retryPause = limits.ownRetryMin
      pingAt = now + limits.ownHeartbeat
      return [.answer(announcement(of: welcome.store))]
    case (.refused(let reason), .greeting): return giveUp(reason, at: now)
    case (.found(let lease, let blocks, let isLast), .attached(let store)):
      // Given up meanwhile; its release is on its way.
      guard var question = questions[lease] else { return [] }
      question.blocks += blocks
      guard isLast else {
        questions[lease] = question
        return []
      }
      questions[lease] = nil
      let id = LeaseID(serial: lease, owner: store, holder: engine)
      let grant = Grant(lease: id, ttl: limits.leaseTTLMax, blocks: question.blocks)
      return [.answer(.resolved(question.fetch, .granted(grant), after: now - question.askedAt))]
    case (.notFound(let lease, let refusal), .attached):
      guard let question = questions.removeValue(forKey: lease) else { return [] }
      return [.answer(.resolved(question.fetch, .refused(refusal), after: now - question.askedAt))]
    case (.pending(let lease), .attached):
      guard let question = questions[lease] else { return [] }
      return [.answer(.pending(question.fetch))]
    case (.wanted(let batch, let places), .attached(let store)):
      return [.answer(.wanted(batch: batch, .local(store), places.map { Int($0) }))]
    case (.saved(let outcomes), .attached(let store)):
      return [.answer(.saved(.local(store), outcomes))]
    case (.pong, .attached): return []
    // What a leader is never sent, or not yet: the store is broken.
    default: return giveUp("it says what it should not", at: now)
    }
  }

  /// A rank could not attach it: it is announced again with the next heartbeat.
  package mutating func attachFailed(_ source: SourceID) {
    if source == self.source { isUnattached = true }
  }

  /// - Parameter lateness: How much later this is than ``nextDeadline``: our pause is not its silence.
  package mutating func timePassed(at now: LocalInstant, lateness: Duration) -> [Order] {
    switch state {
    case .absent:
      guard connectAt <= now else { return [] }
      connectAt = now + limits.ownRetryMax
      return [.connect]
    case .greeting(var silence):
      let isOver = silence.isOver(
        after: limits.ownSilenceMax, lateness: lateness, limits, at: now)
      state = .greeting(silence)
      return isOver ? abandon(at: now) : []
    case .attached(let store):
      if let isOver = pinged?.isOver(
        after: limits.ownSilenceMax, lateness: lateness, limits, at: now)
      {
        return isOver ? abandon(at: now) : []
      }
      guard let at = pingAt, at <= now else { return [] }
      pingAt = now + limits.ownHeartbeat
      pinged = Silence(since: now)
      pingNext += 1
      var orders: [Order] = [.send(.ping(pingNext))]
      if isUnattached {
        isUnattached = false
        orders.append(.answer(announcement(of: store)))
      }
      return orders
    }
  }

  package var nextDeadline: LocalInstant? {
    switch state {
    case .absent: connectAt
    case .greeting(let silence): silence.since + limits.ownSilenceMax
    case .attached: pinged.map { $0.since + limits.ownSilenceMax } ?? pingAt
    }
  }

  // MARK: Private

  /// A question in messages that fit a packet.
  private static func pages(
    _ keys: [BlockKey], _ message: ([BlockKey], _ isLast: Bool) -> LocalMessage
  ) -> [Order] {
    stride(from: 0, to: keys.count, by: LocalCodec.keysPerPage).map { first in
      let end = min(first + LocalCodec.keysPerPage, keys.count)
      return .send(message(Array(keys[first..<end]), end == keys.count))
    }
  }

  private func announcement(of store: Incarnation) -> ControlAnswer {
    .announced(
      .local(store),
      Array(
        repeating: .own(socket: socket, engine: engine), count: Int(fingerprint.rankCount)))
  }

  private mutating func giveUp(_ reason: String, at now: LocalInstant) -> [Order] {
    [.tellUnusable(reason)] + abandon(at: now)
  }

  private mutating func abandon(at now: LocalInstant) -> [Order] {
    [.close] + disconnected(at: now)
  }

  private mutating func lose() -> [Order] {
    var orders: [Order] = questions.values.sorted { $0.fetch < $1.fetch }.map {
      .answer(.resolved($0.fetch, nil, after: .zero))
    }
    if let source { orders.append(.answer(.sourceDied(source))) }
    questions = [:]
    state = .absent
    pingAt = nil
    pinged = nil
    isUnattached = false
    return orders
  }
}

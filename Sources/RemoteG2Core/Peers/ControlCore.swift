/// A call to a peer's store, numbered once.
public struct CallID: Hashable, Comparable, Sendable {
  public let value: UInt64
  public init(_ value: UInt64) { self.value = value }
  public static func < (a: Self, b: Self) -> Bool { a.value < b.value }
}

/// Everything an engine's control client decides: its peers' lives, its leases, its own store, and what
/// becomes of every question. Pure: the shell makes the calls it orders, tells it how they ended, and
/// wakes it at ``nextDeadline``.
package struct ControlCore: Sendable {
  package enum Order: Equatable, Sendable {
    /// Make this call; it is judged here, so what comes after `timeout` is nobody's.
    case call(CallID, peer: PeerName, PeerCall, timeout: Duration)
    case own(OwnStore.Order)
  }

  private enum Purpose: Sendable {
    case handshake(UInt64)
    case resolve(FetchID, SourceID)
    case confirm(FetchID)
    case renew(LeaseID)
    case release(LeaseID)
  }

  private struct Pending: Sendable {
    let peer: PeerName
    let purpose: Purpose
    let startedAt: LocalInstant
    let deadline: LocalInstant
  }

  private let fingerprint: Fingerprint
  private let limits: Limits
  package private(set) var peers: [PeerName: PeerMachine] = [:]
  package private(set) var leases: LeaseKeeper
  package private(set) var own: OwnStore?
  private var pending: [CallID: Pending] = [:]
  private var deadlines = DeadlineHeap<LocalInstant, CallID>()
  private var callNext: UInt64 = 1
  private var answers: [ControlAnswer] = []
  /// A demonstration's switch: a shorter lease.
  package var leaseTTL: Duration?

  package init(as fingerprint: Fingerprint, limits: Limits) {
    self.fingerprint = fingerprint
    self.limits = limits
    leases = LeaseKeeper(limits: limits)
  }

  // MARK: Members

  package mutating func addPeer(_ name: PeerName, at now: LocalInstant) {
    precondition(peers[name] == nil, "two peers are named \(name)")
    peers[name] = PeerMachine(name: name, as: fingerprint, limits: limits, at: now)
  }

  package mutating func followOwnStore(
    engine: Incarnation, socket: String, blockBytes: Int = 0, at now: LocalInstant
  ) {
    own = OwnStore(
      engine: engine, as: fingerprint, blockBytes: blockBytes, socket: socket, limits: limits,
      at: now)
  }

  package mutating func setRenewals(dropped: Bool) { leases.dropsRenewals = dropped }

  // MARK: For the connector

  package func state(ofPeer name: PeerName) -> PeerState { peers[name]?.state ?? .unknown }
  package var localStore: SourceID? { own?.source }

  /// What there is to tell, in the order it happened.
  package mutating func takeAnswers() -> [ControlAnswer] {
    let taken = answers
    answers = []
    return taken
  }

  package mutating func post(_ request: ControlRequest, at now: LocalInstant) -> [Order] {
    switch request {
    case .resolve(let fetch, let source, let lease, let keys, let timeout):
      guard case .peer(let name, _) = source else { return postOwn(request, at: now) }
      return call(
        name, .resolve(lease, keys: keys, ttl: leaseTTL), .resolve(fetch, source), timeout, at: now)
    case .confirm(let fetch, let source, let lease, let timeout):
      guard case .peer(let name, _) = source else { return postOwn(request, at: now) }
      return call(name, .confirm(lease), .confirm(fetch), timeout, at: now)
    case .release(let source, let lease):
      guard case .peer = source else { return postOwn(request, at: now) }
      return carryOut(leases.released(lease, by: source, at: now), at: now)
    case .want, .offer, .commit, .withdraw, .settled: return postOwn(request, at: now)
    }
  }

  package mutating func attachFailed(_ source: SourceID, at now: LocalInstant) {
    switch source {
    case .local: own?.attachFailed(source)
    case .peer(let name, _): peers[name]?.attachFailed(source, at: now)
    }
  }

  // MARK: Calls

  private mutating func call(
    _ peer: PeerName, _ request: PeerCall, _ purpose: Purpose, _ timeout: Duration,
    at now: LocalInstant
  ) -> [Order] {
    let id = CallID(callNext)
    callNext += 1
    pending[id] = Pending(peer: peer, purpose: purpose, startedAt: now, deadline: now + timeout)
    deadlines.insert(id, due: now + timeout)
    return [.call(id, peer: peer, request, timeout: timeout)]
  }

  /// A reply came. A second one to the same call, or one after its deadline, is nobody's.
  package mutating func answered(
    _ id: CallID, _ reply: PeerReply, at now: LocalInstant, chance: Double
  ) -> [Order] {
    guard let call = pending.removeValue(forKey: id) else { return [] }
    switch (call.purpose, reply) {
    case (.handshake(let ask), .introduction(let introduction)):
      return carryOut(
        peers[call.peer]?.introduced(introduction, to: ask, at: now) ?? [], of: call.peer, at: now)
    case (.resolve(let fetch, let source), .resolved(let answer)):
      peers[call.peer]?.answered(at: now)
      if case .granted(let grant) = answer { leases.granted(grant, by: source, at: now) }
      answers.append(.resolved(fetch, answer, after: now - call.startedAt))
      return []
    case (.confirm(let fetch), .confirmed(let answer)):
      peers[call.peer]?.answered(at: now)
      answers.append(.confirmed(fetch, answer))
      return []
    case (.renew(let lease), .renewed(let answer)):
      peers[call.peer]?.answered(at: now)
      return carryOut(leases.renewalAnswered(lease, answer, at: now), at: now)
    case (.release(let lease), .released):
      peers[call.peer]?.answered(at: now)
      leases.releaseAnswered(lease, isHeard: true, at: now)
      return []
    // An answer to another question: the peer's fault.
    default: return ended(call, .invalid, lateness: .zero, at: now, chance: chance)
    }
  }

  /// A call ended without a reply.
  package mutating func failed(
    _ id: CallID, _ failure: CallFailure, at now: LocalInstant, chance: Double
  ) -> [Order] {
    guard let call = pending.removeValue(forKey: id) else { return [] }
    return ended(call, failure, lateness: now - call.deadline, at: now, chance: chance)
  }

  private mutating func ended(
    _ call: Pending, _ failure: CallFailure, lateness: Duration, at now: LocalInstant,
    chance: Double
  ) -> [Order] {
    if case .handshake(let ask) = call.purpose {
      return carryOut(
        peers[call.peer]?.askFailed(
          ask, failure, lateness: lateness, at: now, chance: chance) ?? [], of: call.peer,
        at: now)
    }
    var orders = carryOut(
      peers[call.peer]?.callFailed(failure, lateness: lateness, at: now, chance: chance) ?? [],
      of: call.peer, at: now)
    switch call.purpose {
    case .handshake: break
    case .resolve(let fetch, _):
      answers.append(.resolved(fetch, nil, after: now - call.startedAt))
    case .confirm(let fetch): answers.append(.confirmed(fetch, nil))
    case .renew(let lease):
      orders += carryOut(leases.renewalAnswered(lease, nil, at: now), at: now)
    case .release(let lease): leases.releaseAnswered(lease, isHeard: false, at: now)
    }
    return orders
  }

  // MARK: The own store

  private mutating func postOwn(_ request: ControlRequest, at now: LocalInstant) -> [Order] {
    carryOut(own?.post(request, at: now) ?? [])
  }

  package mutating func ownConnected(at now: LocalInstant) -> [Order] {
    carryOut(own?.connected(at: now) ?? [])
  }

  package mutating func ownDisconnected(at now: LocalInstant) -> [Order] {
    carryOut(own?.disconnected(at: now) ?? [])
  }

  package mutating func ownReceived(_ message: LocalMessage, at now: LocalInstant) -> [Order] {
    carryOut(own?.received(message, at: now) ?? [])
  }

  // MARK: Time

  /// Judges deadlines. Everything that has come is to be told before.
  package mutating func timePassed(at now: LocalInstant, chance: Double) -> [Order] {
    var orders: [Order] = []
    while let first = deadlines.first, first.deadline <= now {
      _ = deadlines.popFirst()
      guard let call = pending.removeValue(forKey: first.value) else { continue }
      orders += ended(call, .timedOut, lateness: now - call.deadline, at: now, chance: chance)
    }
    for name in peers.keys.sorted() {
      guard let due = peers[name]?.nextDeadline, due <= now else { continue }
      orders += carryOut(
        peers[name]?.timePassed(at: now, lateness: now - due) ?? [], of: name, at: now)
    }
    orders += carryOut(leases.timePassed(at: now), at: now)
    if let due = own?.nextDeadline, due <= now {
      orders += carryOut(own?.timePassed(at: now, lateness: now - due) ?? [])
    }
    return orders
  }

  package var nextDeadline: LocalInstant? {
    var next = deadlines.first?.deadline
    func consider(_ other: LocalInstant?) {
      if let other { next = min(next ?? other, other) }
    }
    for peer in peers.values { consider(peer.nextDeadline) }
    consider(leases.nextDeadline)
    consider(own?.nextDeadline)
    return next
  }

  /// Calls without an answer yet.
  package var pendingCount: Int { pending.count }

  // MARK: Orders of the parts

  private mutating func carryOut(
    _ orders: [PeerMachine.Order], of peer: PeerName, at now: LocalInstant
  ) -> [Order] {
    var out: [Order] = []
    for order in orders {
      switch order {
      case .ask(let ask):
        out += call(peer, .handshake, .handshake(ask), limits.handshakeTimeout, at: now)
      case .announce(let source, let pools):
        answers.append(
          .announced(source, pools.map { .remote($0) }))
      case .declareDead(let source):
        leases.sourceDied(source)
        answers.append(.sourceDied(source))
      }
    }
    return out
  }

  /// Leases of the own store end with its connection: the keeper has none.
  private static func peer(_ source: SourceID) -> PeerName {
    guard case .peer(let name, _) = source else { preconditionFailure("a lease of the own store") }
    return name
  }

  private mutating func carryOut(_ orders: [LeaseKeeper.Order], at now: LocalInstant) -> [Order] {
    var out: [Order] = []
    for order in orders {
      switch order {
      case .renew(let source, let lease):
        out += call(
          Self.peer(source), .renew(lease, ttl: leaseTTL), .renew(lease), limits.resolveMax, at: now
        )
      case .release(let source, let lease):
        out += call(
          Self.peer(source), .release(lease), .release(lease), limits.handshakeTimeout, at: now)
      case .tellEnded(let source, let lease): answers.append(.leaseEnded(source, lease))
      }
    }
    return out
  }

  private mutating func carryOut(_ orders: [OwnStore.Order]) -> [Order] {
    orders.compactMap { order in
      guard case .answer(let answer) = order else { return .own(order) }
      answers.append(answer)
      return nil
    }
  }
}

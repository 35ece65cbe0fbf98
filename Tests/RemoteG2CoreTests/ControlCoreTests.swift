import RemoteG2Core
import Testing

/// What becomes of an engine's questions to its peers.
@Suite struct `Questions to peers` {
  typealias Peer = `Peer machine`
  static let source = Peer.source(Peer.first)
  static let lease = LeaseID(serial: 1, owner: Peer.first, holder: Incarnation(high: 9, low: 9))
  static let keys = [BlockKey(high: 1, low: 1)]
  static let grant = Grant(
    lease: lease, ttl: .seconds(3),
    blocks: [GrantedBlock(slot: SlotIndex(0), generation: 1, digests: [nil])])
  static func at(_ milliseconds: Int) -> LocalInstant { Peer.at(milliseconds) }

  /// A core that has met one peer, and the number of its next call.
  static func met() -> ControlCore {
    var core = ControlCore(as: Peer.ours, limits: Limits())
    core.addPeer("P", at: at(0))
    let asked = core.timePassed(at: at(0), chance: 1)
    #expect(
      asked == [.call(CallID(1), peer: "P", .handshake, timeout: Limits().handshakeTimeout)])
    _ = core.answered(
      CallID(1), .introduction(Peer.introduction(Peer.first)), at: at(0), chance: 1)
    let told = core.takeAnswers()
    #expect(told.count == 1 && core.state(ofPeer: "P") == .ready(source))
    return core
  }

  static func resolve(_ core: inout ControlCore) -> [ControlCore.Order] {
    core.post(
      .resolve(FetchID(1), source, lease, keys: keys, timeout: .milliseconds(50)), at: at(10))
  }

  @Test func `are asked under the lease's name, and answered with the time that they took`() {
    var core = Self.met()
    core.leaseTTL = .seconds(7)
    let asked = Self.resolve(&core)
    #expect(
      asked == [
        .call(
          CallID(2), peer: "P", .resolve(Self.lease, keys: Self.keys, ttl: .seconds(7)),
          timeout: .milliseconds(50))
      ])
    #expect(core.pendingCount == 1 && core.nextDeadline == Self.at(60))
    _ = core.answered(CallID(2), .resolved(.granted(Self.grant)), at: Self.at(14), chance: 1)
    let answers = core.takeAnswers()
    #expect(answers == [.resolved(FetchID(1), .granted(Self.grant), after: .milliseconds(4))])
    #expect(core.leases.heldCount == 1 && core.pendingCount == 0)
    _ = core.answered(CallID(2), .resolved(.granted(Self.grant)), at: Self.at(15), chance: 1)
    #expect(core.takeAnswers() == [], "a call is answered once")
  }

  @Test func `end at their deadline, and what comes later is nobody's`() {
    var core = Self.met()
    _ = Self.resolve(&core)
    _ = core.timePassed(at: Self.at(60) + .nanoseconds(-1), chance: 1)
    #expect(core.takeAnswers() == [])
    _ = core.timePassed(at: Self.at(60), chance: 1)
    #expect(core.takeAnswers() == [.resolved(FetchID(1), nil, after: .milliseconds(50))])
    #expect(core.peers["P"]?.breaker.peerSilent == 1 && core.pendingCount == 0)
    _ = core.answered(CallID(2), .resolved(.granted(Self.grant)), at: Self.at(61), chance: 1)
    #expect(core.takeAnswers() == [] && core.leases.heldCount == 0)
  }

  @Test func `that are answered with something else are not answered, by a living peer`() {
    var core = Self.met()
    _ = Self.resolve(&core)
    _ = core.answered(CallID(2), .released(.released), at: Self.at(12), chance: 1)
    #expect(core.takeAnswers() == [.resolved(FetchID(1), nil, after: .milliseconds(2))])
    #expect(core.peers["P"]?.breaker.peerSilent == 0)
    _ = core.post(
      .confirm(FetchID(1), Self.source, Self.lease, timeout: .milliseconds(50)), at: Self.at(20))
    _ = core.failed(CallID(3), .unavailable, at: Self.at(21), chance: 1)
    #expect(core.takeAnswers() == [.confirmed(FetchID(1), nil)])
    #expect(core.peers["P"]?.breaker.peerSilent == 1)
    _ = core.post(
      .confirm(FetchID(1), Self.source, Self.lease, timeout: .milliseconds(50)), at: Self.at(20))
    _ = core.answered(CallID(4), .confirmed(.intact(1)), at: Self.at(22), chance: 1)
    #expect(core.takeAnswers() == [.confirmed(FetchID(1), .intact(1))])
  }

  @Test func `keep a lease until it is released, and the release is sent until it is heard`() {
    var core = Self.met()
    _ = Self.resolve(&core)
    _ = core.answered(CallID(2), .resolved(.granted(Self.grant)), at: Self.at(14), chance: 1)
    _ = core.takeAnswers()
    var renewed: [ControlCore.Order] = []
    // The heartbeat has its own calls; it is answered.
    for now in stride(from: 20, through: 1014, by: 1) where renewed.isEmpty {
      for order in core.timePassed(at: Self.at(now), chance: 1) {
        guard case .call(let id, _, let call, _) = order else { continue }
        if call == .handshake {
          _ = core.answered(
            id, .introduction(Peer.introduction(Peer.first)), at: Self.at(now), chance: 1)
        } else {
          renewed.append(order)
        }
      }
    }
    guard case .call(let id, "P", .renew(Self.lease, nil), _)? = renewed.first else {
      Issue.record("\(renewed)")
      return
    }
    _ = core.answered(id, .renewed(.gone), at: Self.at(1015), chance: 1)
    #expect(core.takeAnswers() == [.leaseEnded(Self.source, Self.lease)])
    let released = core.post(.release(Self.source, Self.lease), at: Self.at(1016))
    guard case .call(let first, "P", .release(Self.lease), let timeout)? = released.first else {
      Issue.record("\(released)")
      return
    }
    #expect(timeout == Limits().handshakeTimeout && core.leases.releasingCount == 1)
    _ = core.failed(first, .timedOut, at: Self.at(1100), chance: 1)
    #expect(core.leases.releasingCount == 1, "it was not heard")
    var second: CallID?
    for now in stride(from: 1100, through: 1300, by: 1) where second == nil {
      for case .call(let id, _, .release, _) in core.timePassed(at: Self.at(now), chance: 1) {
        second = id
      }
    }
    guard let second else {
      Issue.record("it was not sent again")
      return
    }
    _ = core.answered(second, .released(.alreadyEnded), at: Self.at(1301), chance: 1)
    #expect(core.leases.releasingCount == 0)
  }

  @Test func `to nobody are unknown, and a death ends what the peer had granted`() {
    var core = Self.met()
    #expect(core.state(ofPeer: "Q") == .unknown && core.localStore == nil)
    _ = Self.resolve(&core)
    _ = core.answered(CallID(2), .resolved(.granted(Self.grant)), at: Self.at(14), chance: 1)
    _ = core.takeAnswers()
    let orders = core.timePassed(at: Self.at(500), chance: 1)
    guard case .call(let id, _, .handshake, _)? = orders.first else {
      Issue.record("\(orders)")
      return
    }
    _ = core.answered(
      id, .introduction(Peer.introduction(Peer.second)), at: Self.at(501), chance: 1)
    let told = core.takeAnswers()
    #expect(told.first == .sourceDied(Self.source) && told.count == 2)
    #expect(core.leases.heldCount == 0)
    #expect(core.state(ofPeer: "P") == .ready(Peer.source(Peer.second)))
    core.attachFailed(Peer.source(Peer.second), at: Self.at(502))
    #expect(core.state(ofPeer: "P") == .notReady)
  }

  @Test func `of the own store go to its connection`() {
    var core = Self.met()
    core.followOwnStore(engine: Peer.second, socket: "s", at: Self.at(0))
    var orders = core.timePassed(at: Self.at(0), chance: 1)
    #expect(orders.contains(.own(.connect)))
    orders = core.ownConnected(at: Self.at(1))
    #expect(orders.count == 1)
    let welcome = LocalWelcome(
      store: Peer.first, slotCount: 1, blockBytes: 1, rankCount: 1, stagingSlots: 0)
    orders = core.ownReceived(.welcome(welcome), at: Self.at(1))
    #expect(orders == [] && core.localStore == .local(Peer.first))
    #expect(core.takeAnswers().count == 1, "it is announced")
    orders = core.post(.withdraw(.local(Peer.first), Self.keys), at: Self.at(2))
    #expect(orders == [.own(.send(.withdraw(Self.keys)))])
    orders = core.ownDisconnected(at: Self.at(3))
    #expect(orders == [] && core.takeAnswers() == [.sourceDied(.local(Peer.first))])
    #expect(core.nextDeadline == Self.at(23), "it is looked for again")
  }
}

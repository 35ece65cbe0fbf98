import RemoteG2Core
import Testing

/// A peer's life: who is alive, who is dead, and on what evidence.
@Suite struct `Peer machine` {
  static let ours = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")
  static let start = LocalInstant(nanoseconds: 0)
  static let first = Incarnation(high: 1, low: 1)
  static let second = Incarnation(high: 2, low: 2)
  static func at(_ milliseconds: Int) -> LocalInstant { start + .milliseconds(milliseconds) }

  static func introduction(
    _ incarnation: Incarnation, name: PeerName = "P", as fingerprint: Fingerprint = ours
  ) -> Introduction {
    Introduction(
      incarnation: incarnation, name: name, fingerprint: fingerprint,
      pools: [RankPool(metadata: [1], address: 0, slotCount: 1, blockBytes: 1)], process: 1)
  }

  static func source(_ incarnation: Incarnation) -> SourceID { .peer(name: "P", incarnation) }

  /// The machine, and the number of the handshake under way.
  struct Life {
    var machine = PeerMachine(name: "P", as: ours, limits: Limits(), at: start)
    var ask: UInt64 = 0
    var now = start

    /// Moves the time on until a handshake is asked for.
    mutating func greet() -> [PeerMachine.Order] {
      var others: [PeerMachine.Order] = []
      for _ in 0..<100 {
        now = max(now, machine.nextDeadline ?? now)
        for order in machine.timePassed(at: now, lateness: .zero) {
          if case .ask(let number) = order { ask = number } else { others.append(order) }
        }
        if ask > 0 { return others }
      }
      return others
    }

    mutating func answer(_ introduction: Introduction) -> [PeerMachine.Order] {
      _ = greet()
      defer { ask = 0 }
      return machine.introduced(introduction, to: ask, at: now)
    }

    mutating func fail(_ failure: CallFailure) -> [PeerMachine.Order] {
      _ = greet()
      defer { ask = 0 }
      return machine.askFailed(ask, failure, lateness: .zero, at: now, chance: 1)
    }
  }

  /// A life in each standing.
  static let standings = ["unmet", "living", "doubted", "silent", "refused"]
  static func life(_ name: String) -> Life {
    var life = Life()
    if name == "unmet" { return life }
    if name == "refused" {
      _ = life.answer(introduction(first, name: "Q"))
      return life
    }
    _ = life.answer(introduction(first))
    if name == "doubted" { _ = life.fail(.refused) }
    if name == "silent" { _ = life.fail(.timedOut) }
    return life
  }

  static let events: [(name: String, apply: @Sendable (inout Life) -> [PeerMachine.Order])] = [
    ("introduced as before", { $0.answer(introduction(first)) }),
    ("introduced as another", { $0.answer(introduction(second)) }),
    ("introduced under another name", { $0.answer(introduction(second, name: "Q")) }),
    (
      "introduced as another kind",
      {
        var other = ours
        other.numerics = "x"
        return $0.answer(introduction(first, as: other))
      }
    ),
    ("handshake refused", { $0.fail(.refused) }), ("handshake missed", { $0.fail(.timedOut) }),
    ("handshake broken", { $0.fail(.unavailable) }), ("still starting", { $0.fail(.starting) }),
    ("nonsense", { $0.fail(.invalid) }),
    ("refused for half a second", { life in (0..<6).flatMap { _ in life.fail(.refused) } }),
    (
      "a call refused",
      { $0.machine.callFailed(.refused, lateness: .zero, at: $0.now, chance: 1) }
    ),
    (
      "a call missed",
      { $0.machine.callFailed(.timedOut, lateness: .zero, at: $0.now, chance: 1) }
    ),
    (
      "a call answered",
      {
        $0.machine.answered(at: $0.now)
        return []
      }
    ),
    (
      "attach failed",
      {
        $0.machine.attachFailed(source(first), at: $0.now)
        return []
      }
    ),
    (
      "minutes pass",
      { life in
        var orders = life.machine.timePassed(at: life.now, lateness: .zero)
        life.now = life.now + .seconds(181)
        orders += life.machine.timePassed(at: life.now, lateness: .zero)
        return orders
      }
    ),
  ]

  static func words(_ order: PeerMachine.Order) -> String {
    switch order {
    case .ask: "ask"
    case .announce(let source, _): "announce \(source.incarnation == first ? "first" : "second")"
    case .declareDead(let source): "\(source.incarnation == first ? "first" : "second") is dead"
    }
  }

  static func words(_ standing: PeerMachine.Standing) -> String {
    switch standing {
    case .unmet: "unmet"
    case .living: "living"
    case .doubted(let refusals, _): "doubted after \(refusals)"
    case .silent: "silent"
    case .refused(let mismatch): "refused for its \(mismatch.field)"
    }
  }

  @Test func `every event in every standing does what the table says`() throws {
    var lines: [String] = []
    for standing in Self.standings {
      for event in Self.events {
        var life = Self.life(standing)
        let orders = event.apply(&life).filter { if case .ask = $0 { false } else { true } }
        lines.append(
          "\(standing) | \(event.name) | \(Self.words(life.machine.standing)) | "
            + orders.map(Self.words).joined(separator: ", "))
      }
    }
    try expectSnapshot(lines.joined(separator: "\n") + "\n", "peer-machine.txt")
  }

  @Test func `one refusal is not a death, and neither are many at once`() {
    var life = Self.life("living")
    for _ in 0..<50 {
      let orders = life.machine.callFailed(.refused, lateness: .zero, at: life.now, chance: 1)
      #expect(orders.isEmpty)
    }
    #expect(life.machine.known == Self.first)
    // It was a proxy's, or a moment's.
    #expect(life.answer(Self.introduction(Self.first)).isEmpty)
    #expect(life.machine.state == .ready(Self.source(Self.first)))
  }

  @Test func `an address that refuses for a while is a death, and who lives after it returns`() {
    var life = Self.life("living")
    var dead: [PeerMachine.Order] = []
    for _ in 0..<8 { dead += life.fail(.refused) }
    #expect(dead == [.declareDead(Self.source(Self.first))], "told once")
    let back = life.answer(Self.introduction(Self.first))
    #expect(
      back.map(Self.words) == ["announce first"], "a living incarnation was given up for good")
  }

  @Test func `what was asked before a death says nothing after it`() {
    var life = Self.life("living")
    _ = life.greet()
    let asked = life.ask
    var dead: [PeerMachine.Order] = []
    for round in 0..<8 {
      dead += life.machine.callFailed(
        .refused, lateness: .zero, at: life.now + .milliseconds(round * 50), chance: 1)
    }
    #expect(dead.count == 1)
    let late = life.machine.introduced(
      Self.introduction(Self.first), to: asked, at: life.now + .milliseconds(400))
    #expect(late.isEmpty && life.machine.known == nil)
  }

  @Test
  func `a host that vanishes is given up after minutes of silence, and not for our own pause`() {
    var life = Self.life("silent")
    _ = life.machine.timePassed(at: life.now, lateness: .zero)
    // We were stopped for an hour: that is not its silence.
    life.now = life.now + .seconds(3600)
    let paused = life.machine.timePassed(
      at: life.now, lateness: .seconds(3600) - Limits().peerVanishedMax)
    #expect(!paused.contains(.declareDead(Self.source(Self.first))))
    life.now = life.now + .seconds(181)
    let silent = life.machine.timePassed(at: life.now, lateness: .zero)
    #expect(silent.contains(.declareDead(Self.source(Self.first))))
  }

  @Test func `who could not be attached is declared dead when another lives under its name`() {
    var life = Self.life("living")
    life.machine.attachFailed(Self.source(Self.first), at: life.now)
    let orders = life.answer(Self.introduction(Self.second))
    #expect(orders.map(Self.words) == ["first is dead", "announce second"])
  }

  @Test func `who died after it was attached at last is not declared dead again`() {
    var life = Self.life("living")
    life.machine.attachFailed(Self.source(Self.first), at: life.now)
    var orders: [PeerMachine.Order] = []
    for _ in 0..<50 where orders.isEmpty { orders = life.answer(Self.introduction(Self.first)) }
    #expect(orders.map(Self.words) == ["announce first"])
    orders = []
    for _ in 0..<8 { orders += life.fail(.refused) }
    #expect(orders.map(Self.words) == ["first is dead"])
    #expect(life.answer(Self.introduction(Self.second)).map(Self.words) == ["announce second"])
  }

  @Test func `an own store gets its whole time again after our own pause, and no more`() {
    let limits = Limits()
    var own = OwnStore(
      engine: Self.first, as: Self.ours, socket: "x", limits: limits, at: Self.start)
    #expect(own.timePassed(at: Self.start, lateness: .zero) == [.connect])
    _ = own.connected(at: Self.start)
    let paused = Self.start + .seconds(60)
    #expect(own.timePassed(at: paused, lateness: .seconds(59)).isEmpty)
    // However late we are again.
    let later = own.timePassed(at: paused + .seconds(60), lateness: .seconds(59))
    #expect(later.contains(.close))
  }

  @Test func `a source that a rank could not attach is announced again after a while that doubles`()
  {
    var life = Self.life("living")
    var waits: [Duration] = []
    for _ in 0..<4 {
      life.machine.attachFailed(Self.source(Self.first), at: life.now)
      let failed = life.now
      var orders: [PeerMachine.Order] = []
      for _ in 0..<50 where orders.isEmpty { orders = life.answer(Self.introduction(Self.first)) }
      #expect(orders.map(Self.words) == ["announce first"])
      waits.append(life.now - failed)
    }
    #expect(zip(waits, waits.dropFirst()).allSatisfy { $1 > $0 }, "\(waits)")
  }
}

/// Leases are kept while they are needed, and given back until the store has heard of it.
@Suite struct `Lease keeper` {
  static let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
  static let lease = LeaseID(
    serial: 1, owner: Incarnation(high: 1, low: 1), holder: Incarnation(high: 2, low: 2))
  static let start = LocalInstant(nanoseconds: 0)

  static func granted() -> LeaseKeeper {
    var keeper = LeaseKeeper(limits: Limits())
    keeper.granted(Grant(lease: lease, ttl: .seconds(3), blocks: []), by: source, at: start)
    return keeper
  }

  @Test func `a lease is renewed at a third of its life, again and again, until it is released`() {
    var keeper = Self.granted()
    var now = Self.start
    for _ in 0..<5 {
      #expect(keeper.nextDeadline == now + .seconds(1))
      now = now + .seconds(1)
      #expect(keeper.timePassed(at: now) == [.renew(Self.source, Self.lease)])
      #expect(keeper.timePassed(at: now).isEmpty, "one renewal at a time")
      _ = keeper.renewalAnswered(Self.lease, .renewed(ttl: .seconds(3)), at: now)
    }
    #expect(
      keeper.released(Self.lease, by: Self.source, at: now) == [.release(Self.source, Self.lease)])
    #expect(keeper.released(Self.lease, by: Self.source, at: now).isEmpty, "it is ordered once")
    #expect(keeper.heldCount == 0)
  }

  @Test func `a release that nobody heard is sent again, a few times`() {
    var keeper = Self.granted()
    var sent = keeper.released(Self.lease, by: Self.source, at: Self.start).count
    var now = Self.start
    for _ in 0..<20 {
      keeper.releaseAnswered(Self.lease, isHeard: false, at: now)
      guard let next = keeper.nextDeadline else { break }
      now = next
      sent += keeper.timePassed(at: now).count
    }
    #expect(sent == Limits().releaseAttemptsMax && keeper.releasingCount == 0)
  }

  @Test func `a grant that comes after its release is not kept`() {
    var keeper = LeaseKeeper(limits: Limits())
    _ = keeper.released(Self.lease, by: Self.source, at: Self.start)
    keeper.granted(
      Grant(lease: Self.lease, ttl: .seconds(3), blocks: []), by: Self.source, at: Self.start)
    #expect(keeper.heldCount == 0)
  }

  @Test func `a lease that the store has ended is told once, and its source's death ends all`() {
    var keeper = Self.granted()
    _ = keeper.timePassed(at: Self.start + .seconds(1))
    let told = keeper.renewalAnswered(Self.lease, .gone, at: Self.start + .seconds(1))
    #expect(told == [.tellEnded(Self.source, Self.lease)] && keeper.heldCount == 0)
    var other = Self.granted()
    other.sourceDied(Self.source)
    #expect(other.heldCount == 0 && other.nextDeadline == nil)
  }
}

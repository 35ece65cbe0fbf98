import RemoteG2Core
import Testing

/// A node's decisions, driven as its shells drive them, without bytes.
@Suite struct `A node` {
  static let terms = `Stream messages`.terms
  static let keys = (0..<8).map { BlockKey(high: UInt64($0), low: 9) }
  static let engine = Incarnation(high: 5, low: 5)
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(milliseconds) * 1_000_000)
  }
  static func digests(_ number: Int) -> [Digest128] {
    (0..<2).map { Digest128(high: UInt64(number), low: UInt64($0)) }
  }

  /// A node with one engine's leader attached, and members b and c that announce keys.
  struct Bench {
    var core: NodeCore
    let leader: ConnectionID
    let pool = PoolNumber(1)
    /// What its own engine was told.
    var said: [LocalMessage] = []
    var pulls: [(stream: StreamID, member: PeerName, keys: [BlockKey])] = []
    /// How long each of those may be silent.
    var patience: [Duration] = []
    var cancelled: [StreamID] = []

    init(
      named name: PeerName = "a", members: [PeerName] = ["b", "c"], memoryBytes: Int = 64 * 8192,
      _ change: (inout Limits.Values) -> Void = { _ in }
    ) {
      let number = name.text.utf8.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      core = NodeCore(
        node: Incarnation(high: 1, low: name == "a" ? 1 : number), name: name, members: members,
        memoryBytes: memoryBytes, limits: Limits(change))
      leader = core.joined(at: LocalInstant(nanoseconds: 0))!
      take(core.received(.hello(hello), from: leader, at: at(0)))
      take(core.poolMade(pool, .success(Incarnation(high: 2, low: 2)), at: at(0)))
    }

    var hello: LocalHello {
      LocalHello(
        engine: engine, role: .leader, fingerprint: terms.fingerprint, stagingSlots: 0,
        blockBytes: terms.blockBytes)
    }

    mutating func take(_ actions: [NodeAction]) {
      for action in actions {
        switch action {
        case .local(.send(_, let message), _): said.append(message)
        case .pull(let stream, let member, _, _, let keys, let patience):
          pulls.append((stream, member, keys))
          self.patience.append(patience)
        case .cancel(let stream): cancelled.append(stream)
        case .local, .makePool, .feedChanged, .startAgent, .endAgent: break
        }
      }
    }

    mutating func announce(
      _ member: PeerName, _ keys: [BlockKey], after delay: Duration = .zero
    ) {
      let node = Incarnation(high: 77, low: UInt64(member.text.utf8.first ?? 0))
      #expect(
        core.watched(member, as: StreamWelcome(node: node, name: member), after: delay) == nil)
      #expect(core.heard(.pools([terms]), from: member) == true)
      #expect(core.heard(.snapshot(keys, isLast: true), from: member) == true)
    }

    mutating func want(
      _ keys: [BlockKey], lease: UInt64 = 1, pace: Duration = .seconds(1), at now: LocalInstant
    ) {
      take(
        core.received(
          .want(lease: lease, keys: keys, isLast: true, pace: pace), from: leader, at: now))
    }

    /// One more block of a stream arrives, right.
    mutating func land(_ stream: StreamID, _ position: Int, at now: LocalInstant) {
      guard case .write = core.arriving(stream, position: position) else {
        Issue.record("block \(position) of \(stream) was not to be written")
        return
      }
      take(core.arrived(stream, digests: digests(position), at: now))
    }

    var stats: StoreStats { core.stats(of: pool)! }
    var found: Int? {
      for case .found(_, let blocks, _) in said.reversed() { return blocks.count }
      return nil
    }
    var isRefused: Bool { said.contains { if case .notFound = $0 { true } else { false } } }
  }

  @Test func `makes a pool for the first engine of a kind, as large as its memory allows`() {
    var core = NodeCore(
      node: Incarnation(high: 1, low: 1), name: "a", members: [], memoryBytes: 100_000,
      limits: Limits())
    let (first, second) = (
      core.joined(at: LocalInstant(nanoseconds: 0))!, core.joined(at: LocalInstant(nanoseconds: 0))!
    )
    let hello = Bench().hello
    #expect(
      core.received(.hello(hello), from: first, at: Self.at(0)) == [
        .makePool(PoolNumber(1), Self.terms, slotCount: 12)
      ])
    // One more of the same kind waits for the same pool.
    #expect(core.received(.hello(hello), from: second, at: Self.at(0)).isEmpty)
    let actions = core.poolMade(
      PoolNumber(1), .success(Incarnation(high: 2, low: 2)), at: Self.at(0))
    let welcomed = actions.filter {
      if case .local(.send(_, .welcome(let welcome)), _) = $0 {
        welcome.slotCount == 12
      } else {
        false
      }
    }
    #expect(welcomed.count == 2)
  }

  @Test func `refuses an engine for which it has no memory, and says what to do`() {
    var bench = Bench()
    var hello = bench.hello
    hello.fingerprint.modelDigest = "another"
    hello.engine = Incarnation(high: 6, low: 6)
    let other = bench.core.joined(at: LocalInstant(nanoseconds: 0))!
    bench.take(bench.core.received(.hello(hello), from: other, at: Self.at(1)))
    guard case .refused(let reason)? = bench.said.last else {
      Issue.record("\(bench.said)")
      return
    }
    #expect(reason.contains("raise --memory"))
    // Once the first engine has gone, its pool makes room.
    bench.take(bench.core.left(bench.leader, at: Self.at(2)))
    let third = bench.core.joined(at: LocalInstant(nanoseconds: 0))!
    let actions = bench.core.received(.hello(hello), from: third, at: Self.at(3))
    #expect(actions.contains { if case .makePool = $0 { true } else { false } })
  }

  @Test func `answers at once what nobody else has`() {
    var bench = Bench()
    bench.want(Self.keys, at: Self.at(1))
    #expect(bench.isRefused && bench.pulls.isEmpty)
    #expect(bench.core.shortfalls == [.noHolder: 1])
  }

  @Test func `fetches what a member announces, and grants it when it is here`() {
    var bench = Bench()
    bench.announce("b", Array(Self.keys[..<3]))
    bench.want(Self.keys, at: Self.at(1))
    #expect(bench.pulls.first?.member == "b" && bench.pulls.first?.keys == Array(Self.keys[..<3]))
    #expect(bench.said.last == .pending(lease: 1))
    let stream = bench.pulls[0].stream
    for position in 0..<3 { bench.land(stream, position, at: Self.at(2 + position)) }
    #expect(bench.found == nil, "nobody knows yet that nothing follows")
    bench.take(bench.core.ended(stream, .served, at: Self.at(6)))
    #expect(bench.found == 3)
    #expect(bench.stats.pinned == 3 && bench.stats.leases == 1)
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(7)))
    #expect(bench.stats.pinned == 0 && bench.stats.leases == 0 && bench.stats.sealed == 3)
  }

  @Test(arguments: [PullEnd.stalled, .broken, .invalid, .busy, .lacking, .refused])
  func `goes on with another holder when one fails`(end: PullEnd) {
    var bench = Bench()
    bench.announce("b", Array(Self.keys[..<6]))
    bench.announce("c", Array(Self.keys[..<5]))
    bench.want(Self.keys, at: Self.at(1))
    #expect(bench.pulls.map(\.member) == ["b"])
    bench.land(bench.pulls[0].stream, 0, at: Self.at(2))
    bench.land(bench.pulls[0].stream, 1, at: Self.at(3))
    bench.take(bench.core.ended(bench.pulls[0].stream, end, at: Self.at(100)))
    #expect(bench.pulls.map(\.member) == ["b", "c"])
    #expect(bench.pulls[1].keys == Array(Self.keys[2..<5]), "the rest, and nothing twice")
    for position in 0..<3 { bench.land(bench.pulls[1].stream, position, at: Self.at(101)) }
    bench.take(bench.core.ended(bench.pulls[1].stream, .served, at: Self.at(102)))
    #expect(bench.found == 5)
    #expect(bench.core.shortfalls == [.failed: 1])
  }

  @Test func `sends a prefix that many want at once to a few, and tells the others to whom`() {
    var bench = Bench()
    let (hot, other) = (Self.keys[5], Self.keys[3])
    let readers = (0..<6).map { PeerName("n\($0)") }
    let decided = readers.map { bench.core.serves(hot, to: $0, at: Self.at(0)) }
    let told = ServeDecision.busy(others: Array(readers[..<4]))
    #expect(decided == [.begins, .begins, .begins, .begins, told, told])
    #expect(bench.core.serves(other, to: "n5", at: Self.at(0)) == .begins)
    bench.core.served(hot, to: "n1")
    #expect(bench.core.serves(hot, to: "n4", at: Self.at(0)) == .begins)
    // Four that are slow keep nobody from it for long.
    #expect(bench.core.serves(hot, to: "n5", at: Self.at(99)) != .begins)
    #expect(bench.core.serves(hot, to: "n5", at: Self.at(100)) == .begins)
    for (key, reader) in [
      (hot, "n0"), (hot, "n2"), (hot, "n3"), (hot, "n4"), (hot, "n5"), (other, "n5"),
    ] {
      bench.core.served(key, to: PeerName(reader))
    }
    #expect(bench.core.report.serving == 0)
  }

  @Test func `waits a moment for whoever is being sent what it wants, and takes it from there`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.announce("c", [])
    bench.want(Self.keys, at: Self.at(1))
    bench.take(
      bench.core.ended(bench.pulls[0].stream, .busy, others: ["c"], at: Self.at(5)))
    #expect(!bench.isRefused && bench.core.nextDeadline == Self.at(15))
    // Some of it is there by then.
    #expect(
      bench.core.heard(
        .changes(number: 1, Self.keys[..<2].map { FeedChange(key: $0, isSealed: true) }), from: "c")
        == true)
    bench.take(bench.core.timePassed(at: Self.at(15)))
    #expect(
      bench.pulls.map(\.member) == ["b", "c"] && bench.pulls[1].keys == Array(Self.keys[..<2]))
    for position in 0..<2 { bench.land(bench.pulls[1].stream, position, at: Self.at(16)) }
    bench.take(bench.core.ended(bench.pulls[1].stream, .served, at: Self.at(17)))
    // Nobody but who was busy has the rest: it is asked again.
    #expect(bench.pulls.map(\.member) == ["b", "c", "b"])
    #expect(bench.pulls[2].keys == Array(Self.keys[2...]))
  }

  @Test func `does not wait for longer than a moment, nor where nobody is being sent it`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    var now = 1
    while !bench.isRefused, now < 1000 {
      bench.take(
        bench.core.ended(bench.pulls.last!.stream, .busy, others: ["c"], at: Self.at(now)))
      now += 10
      bench.take(bench.core.timePassed(at: Self.at(now)))
    }
    #expect(bench.isRefused && (150...220).contains(now), "\(now)")
    // Nor where two that are busy take turns.
    var two = Bench()
    two.announce("b", Self.keys)
    two.announce("c", Self.keys)
    two.want(Self.keys, pace: .zero, at: Self.at(1))
    var later = 1
    while !two.isRefused, later < 1000 {
      later += 12
      two.take(
        two.core.ended(two.pulls.last!.stream, .busy, others: ["d"], at: Self.at(later)))
      two.take(two.core.timePassed(at: Self.at(later)))
    }
    #expect(two.isRefused && later < 300, "\(later)")
    #expect(bench.stats.pinned == 0 && bench.core.report.waiting == 0)
    var other = Bench()
    other.announce("b", Self.keys)
    other.want(Self.keys, at: Self.at(1))
    other.take(other.core.ended(other.pulls[0].stream, .busy, at: Self.at(2)))
    #expect(other.isRefused)
  }

  @Test func `leaves a member alone that did not answer, until its feed is heard again`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    bench.take(bench.core.ended(bench.pulls[0].stream, .stalled, at: Self.at(101)))
    #expect(bench.isRefused)
    bench.want(Self.keys, lease: 2, at: Self.at(102))
    #expect(bench.pulls.count == 1)
    #expect(bench.core.heard(.beat, from: "b") == true)
    bench.want(Self.keys, lease: 3, at: Self.at(103))
    #expect(bench.pulls.count == 2)
  }

  @Test func `seals nothing whose digest is wrong, and asks somebody else for it`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.announce("c", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    _ = bench.core.arriving(bench.pulls[0].stream, position: 0)
    bench.take(bench.core.arrived(bench.pulls[0].stream, digests: nil, at: Self.at(2)))
    #expect(bench.stats.sealed == 0 && bench.stats.writing == 0)
    bench.take(bench.core.ended(bench.pulls[0].stream, .invalid, at: Self.at(2)))
    #expect(bench.pulls.map(\.member) == ["b", "c"] && bench.pulls[1].keys == Self.keys)
  }

  @Test func `gives a slot up that is being written when its stream ends`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    _ = bench.core.arriving(bench.pulls[0].stream, position: 0)
    #expect(bench.stats.writing == 1)
    bench.take(bench.core.ended(bench.pulls[0].stream, .broken, at: Self.at(2)))
    #expect(bench.stats.writing == 0 && bench.stats.free == bench.stats.slots)
  }

  @Test func `lets two questions share a fetch, and the first to leave does not end it`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.announce("c", Self.keys)
    bench.want(Self.keys, lease: 1, at: Self.at(1))
    bench.want(Self.keys, lease: 2, at: Self.at(2))
    #expect(bench.pulls.count == 1)
    bench.land(bench.pulls[0].stream, 0, at: Self.at(3))
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(4)))
    #expect(bench.cancelled.isEmpty)
    // The holder dies: the other question goes on with another one.
    bench.take(bench.core.ended(bench.pulls[0].stream, .broken, at: Self.at(5)))
    #expect(bench.pulls.last?.member == "c" && bench.pulls.last?.keys == Array(Self.keys[1...]))
    for position in 0..<7 { bench.land(bench.pulls[1].stream, position, at: Self.at(6)) }
    #expect(bench.found == 8)
    bench.take(bench.core.received(.release(lease: 2), from: bench.leader, at: Self.at(7)))
    bench.take(bench.core.ended(bench.pulls[1].stream, .served, at: Self.at(8)))
    #expect(bench.stats.pinned == 0 && bench.core.openCounts == (0, 0))
  }

  @Test func `cancels a fetch that nobody waits for, and keeps what has come`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    bench.land(bench.pulls[0].stream, 0, at: Self.at(2))
    bench.take(bench.core.left(bench.leader, at: Self.at(3)))
    #expect(bench.cancelled == [bench.pulls[0].stream])
    #expect(bench.core.arriving(bench.pulls[0].stream, position: 1) == .stop)
    bench.take(bench.core.ended(bench.pulls[0].stream, .broken, at: Self.at(4)))
    #expect(bench.stats.sealed == 1 && bench.stats.pinned == 0 && bench.stats.writing == 0)
    #expect(bench.core.standing(of: "b") == .watched, "it did nothing wrong")
  }

  @Test func `stops waiting when the rest would take longer than computing it`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, pace: .milliseconds(10), at: Self.at(0))
    bench.land(bench.pulls[0].stream, 0, at: Self.at(5))
    #expect(bench.found == nil)
    // Two blocks in 60 ms: the other six would come 240 ms after the question; computing all takes 80.
    bench.land(bench.pulls[0].stream, 1, at: Self.at(60))
    #expect(bench.found == 2 && bench.core.shortfalls == [.outpaced: 1])
    #expect(bench.cancelled == [bench.pulls[0].stream])
  }

  @Test func `answers by the engine's patience though no block comes`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, pace: .milliseconds(10), at: Self.at(0))
    #expect(bench.core.nextDeadline == Self.at(88))
    bench.take(bench.core.timePassed(at: Self.at(87)))
    #expect(!bench.isRefused)
    bench.take(bench.core.timePassed(at: Self.at(88)))
    #expect(bench.isRefused && bench.core.openCounts.questions == 0)
  }
}

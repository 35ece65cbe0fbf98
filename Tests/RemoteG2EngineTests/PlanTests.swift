import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import Testing
import TransferRig

/// What a connector makes of a grant that does not fit the request it was asked for.
@Suite struct `Lease and plan decisions` {
  static let limits = Limits()
  static let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))

  /// A connector with one ready peer and no engine.
  struct Desk {
    let control = ToyControl()
    let connector: RemoteG2Connector
    var now = LocalInstant(nanoseconds: 1)
    let keys = (0..<12).map { BlockKey(high: UInt64($0), low: 1) }
    private let ending: Ending

    /// A lease may not be dropped: what is open when the desk goes ends with it.
    private final class Ending {
      let connector: RemoteG2Connector
      init(_ connector: RemoteG2Connector) { self.connector = connector }
      deinit { connector.shutDown(at: LocalInstant(nanoseconds: 1 << 60)) }
    }

    init(limits: Limits = Limits(), pullsByCost: Bool = false, ranks: Int = 1) throws {
      connector = RemoteG2Connector(
        control: control,
        settings: try ConnectorSettings(
          rankCount: ranks, blockBytes: 128, tokensPerBlock: 4, targetBlockCount: 64,
          limits: limits,
          pullsByCost: pullsByCost))
      ending = Ending(connector)
      control.peers["P"] = .ready(source)
      control.isSilent = true
      if ranks == 1 { attach(source) }
    }

    /// The source is announced.
    ///
    /// - Returns: The number of the order to attach it.
    func announce(_ source: SourceID) -> UInt64 {
      control.answers.append(.announced(source, []))
      _ = connector.absorb([], at: now)
      for case .attach(let number, _, _) in connector.plan(at: now) { return number }
      return 0
    }

    /// The source is announced, and the one rank can read it.
    func attach(_ source: SourceID) {
      var report = RankReport(rank: 0, sequence: 0)
      report.attached = [announce(source): true]
      _ = connector.absorb([report], at: now)
    }

    func match(_ computed: Int, id: UInt64 = 1, blocksMax: Int = 12) throws -> RemoteMatch {
      connector.match(
        RequestView(
          id: RequestID(id), keys: keys, blocksMax: blocksMax,
          hint: try Hint(version: 1, store: "P", blocksMax: nil, limits: limits)),
        computed: computed, at: now)
    }

    /// The source answers the first fetch with this many blocks.
    @discardableResult
    func grant(_ blocks: Int, fetch: UInt64 = 1, serial: UInt64 = 7) -> ConnectorOutcome {
      let granted = (0..<blocks).map {
        GrantedBlock(slot: SlotIndex($0), generation: 1, digests: [nil])
      }
      let lease = LeaseID(
        serial: serial, owner: source.incarnation, holder: control.incarnation)
      control.answers.append(
        .resolved(
          FetchID(fetch), .granted(Grant(lease: lease, ttl: .seconds(30), blocks: granted)),
          after: .milliseconds(1)))
      return connector.absorb([RankReport(rank: 0, sequence: 0)], at: now)
    }

    var isClean: Bool { connector.open == (0, 0, 0) }
  }

  @Test func `a gap before the plan's start gives the grant back`() throws {
    let desk = try Desk()
    #expect(try desk.match(4) == .undecided)
    desk.grant(8)
    // The local prefix shrank to 3 while the source was asked.
    #expect(try desk.match(3) == .none)
    #expect(desk.control.releases.count == 1 && desk.isClean)
  }

  @Test func `what overlaps with the local prefix is skipped, never misplaced`() throws {
    let desk = try Desk()
    _ = try desk.match(2)
    desk.grant(10)
    #expect(try desk.match(5) == .available(blocks: 7))
    desk.connector.bind(RequestID(1), to: (20..<27).map { BlockIndex($0) }, at: desk.now)
    let orders = desk.connector.plan(at: desk.now)
    guard
      case .load(_, _, let moves, _)? = orders.first(where: {
        if case .load = $0 { true } else { false }
      })
    else {
      Issue.record("nothing was ordered")
      return
    }
    // Blocks 2, 3, 4 of the grant are there already: the first move reads the grant's fourth.
    #expect(
      moves.first == BlockMove(target: BlockIndex(20), source: SlotIndex(3), generation: 1))
    #expect(moves.last == BlockMove(target: BlockIndex(26), source: SlotIndex(9), generation: 1))
    desk.connector.abort(RequestID(1), at: desk.now)
  }

  @Test func `a local prefix that covers the whole plan gives it back`() throws {
    let desk = try Desk()
    _ = try desk.match(2)
    desk.grant(4)
    #expect(try desk.match(6) == .none)
    #expect(desk.control.releases.count == 1 && desk.isClean)
  }

  @Test func `a plan past the end of what was asked is the peer's fault, and refused`() throws {
    let desk = try Desk()
    _ = try desk.match(2)
    let outcome = desk.grant(11)
    #expect(outcome.settled.first?.reason == .refused)
    #expect(desk.control.releases.count == 1 && desk.isClean)
    #expect(desk.connector.fallbacks == [.refused: 1])
  }

  @Test func `an empty plan is refused and given back`() throws {
    let desk = try Desk()
    _ = try desk.match(0)
    #expect(desk.grant(0).settled.first?.reason == .refused)
    #expect(desk.control.releases.count == 1 && desk.isClean)
  }

  @Test func `a plan whose lease ended before it was bound is given back`() throws {
    let desk = try Desk()
    _ = try desk.match(0)
    desk.grant(12)
    desk.control.answers.append(
      .leaseEnded(
        Self.source,
        LeaseID(
          serial: 1, owner: Self.source.incarnation, holder: desk.control.incarnation)))
    let outcome = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    #expect(outcome.settled.first?.reason == .leaseEnded)
    #expect(desk.isClean)
    #expect(try desk.match(0) == .none, "the same span is not asked again")
  }

  @Test func `a grant for a fetch that is over is released`() throws {
    var desk = try Desk()
    _ = try desk.match(0)
    desk.now = desk.now + .seconds(1)
    // Late by much more than a timer's lateness: the wait is extended once, and then it is over.
    _ = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    desk.now = desk.now + .seconds(1)
    _ = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    #expect(desk.connector.open.fetches == 0)
    desk.grant(12)
    #expect(desk.control.releases.count == 1)
  }

  @Test func `a source that was replaced answers gone for its predecessor`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    let old = LeaseID(
      serial: 1, owner: Incarnation(high: 1, low: 1), holder: Incarnation(high: 3, low: 3))
    let now = LocalInstant(nanoseconds: 1)
    let (confirm, renew, release) = (
      ledger.confirm(old, at: now), ledger.renew(old, ttl: nil, at: now),
      ledger.release(old, at: now)
    )
    #expect(confirm == .gone && renew == .gone && release == .gone)
  }

  @Test(arguments: [45, 46, 47, 48, 49, 50, 51, 52])
  func `of any prompt all whole blocks but the last token's are asked for`(count: Int) throws {
    let prompt = (0..<count).map { Int32($0 % 90) }
    let world = try ToyWorld()
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(result?.account.keptTokens == (count - 1) / 4 * 4)
    #expect(result?.account.computedPromptTokens == count - (count - 1) / 4 * 4)
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test(arguments: Array(0..<12))
  func `with k of n blocks here, the other n - k land in their places`(
    local: Int
  ) throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld()
    if local > 0 {
      try world.submit(1, Array(prompt.prefix(local * 4 + 1)), generate: 1, hinted: false)
      _ = world.finish(1)
    }
    try world.fillPeer(prompt)
    try world.submit(2, prompt)
    let result = world.finish(2)
    #expect(result?.account.cachedTokens == local * 4)
    #expect(result?.account.keptTokens == (12 - local) * 4)
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `the first miss ends the plan`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld()
    try world.fillPeer(prompt, blocks: 5)
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 20 && result?.account.reasons == [])
    #expect(world.events.contains { $0.kind == .truncated && $0.blocks == 5 })
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `a stale hint is answered gone in one round trip, and counted as that`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld()
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(world.connector.fallbacks == [.gone: 1])
    let waited = (result?.account.firstTokenAt).map { $0 - (result?.account.submittedAt ?? $0) }
    #expect((waited ?? .seconds(9)) <= .milliseconds(10), "it waited for a deadline")
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `a grant never skips a block that is missing`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    let now = LocalInstant(nanoseconds: 1)
    let keys = (0..<4).map { BlockKey(high: UInt64($0), low: 1) }
    for key in [keys[0], keys[2], keys[3]] {
      guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: nil) else {
        continue
      }
      ledger.pool.seal(
        slot, generation: generation, digests: [Digest128(high: key.high, low: 1)])
    }
    guard case .granted(let grant) = ledger.resolve(keys, ttl: nil, at: now) else {
      Issue.record("nothing was granted")
      return
    }
    #expect(grant.blocks.count == 1)
  }

  @Test func `a store over its budget refuses, and the request does not wait`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let limits = Limits { $0.leasesMax = 1 }
    let world = try ToyWorld(limits: limits)
    try world.fillPeer(prompt)
    _ = world.peerStore.ledger.resolve(
      world.chain.keys(of: prompt), ttl: nil, at: world.clock.now)
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(world.connector.fallbacks == [.overBudget: 1])
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `two resolves of one prefix are two leases, and both balance`() {
    var ledger = StoreLedger(
      incarnation: Incarnation(high: 2, low: 2), slotCount: 8, rankCount: 1, limits: Limits())
    let now = LocalInstant(nanoseconds: 1)
    let key = BlockKey(high: 1, low: 1)
    guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: nil) else {
      return
    }
    ledger.pool.seal(slot, generation: generation, digests: [Digest128(high: 1, low: 1)])
    guard case .granted(let a) = ledger.resolve([key], ttl: nil, at: now),
      case .granted(let b) = ledger.resolve([key], ttl: nil, at: now)
    else {
      Issue.record("it was not granted")
      return
    }
    #expect(a.lease != b.lease)
    let first = ledger.release(a.lease, at: now)
    let pinned = ledger.stats.pinned
    #expect(first == .released && pinned == 1, "one release freed the other's pin")
    let second = ledger.release(b.lease, at: now)
    let left = ledger.stats.pinned
    #expect(second == .released && left == 0)
  }

  @Test func `a pull that looks slower than computing is not started, and says why`() throws {
    let desk = try Desk(pullsByCost: true)
    // The peer was seen to move 1 KB in a second.
    for _ in 0..<50 {
      var report = RankReport(rank: 0, sequence: 0)
      report.bytesMoved = [Self.source: .init(bytes: 1000, duration: .seconds(1))]
      _ = desk.connector.absorb([report], at: desk.now)
    }
    #expect(try desk.match(0) == .none)
    #expect(desk.connector.fallbacks == [.slower: 1])
    #expect(!desk.control.posted.contains { if case .resolve = $0 { true } else { false } })
  }

  @Test func `a peer that serves enough of our fetches is not asked for more`() throws {
    let limits = Limits { $0.fetchesPerPeerMax = 1 }
    let desk = try Desk(limits: limits)
    _ = try desk.match(0, id: 1, blocksMax: 6)
    let other = RequestView(
      id: RequestID(2), keys: (100..<112).map { BlockKey(high: UInt64($0), low: 1) }, blocksMax: 12,
      hint: try Hint(version: 1, store: "P", blocksMax: nil, limits: limits))
    #expect(desk.connector.match(other, computed: 0, at: desk.now) == .none)
    #expect(desk.connector.fallbacks == [.busy: 1])
  }

  @Test func `a peer whose breaker is open is not waited for at all`() throws {
    let desk = try Desk()
    desk.control.peers["P"] = .off
    #expect(try desk.match(0) == .none)
    #expect(desk.connector.fallbacks == [.peerOff: 1])
  }

  @Test func `one bad peer does not delay another's requests`() throws {
    // P never answers. Q is asked at once, and what it grants is loaded, while P's fetch is open.
    let desk = try Desk()
    let other = SourceID.peer(name: "Q", Incarnation(high: 2, low: 2))
    desk.control.peers["Q"] = .ready(other)
    desk.attach(other)
    #expect(try desk.match(0, id: 1) == .undecided)
    let view = RequestView(
      id: RequestID(2), keys: (50..<62).map { BlockKey(high: UInt64($0), low: 1) }, blocksMax: 12,
      hint: try Hint(version: 1, store: "Q", blocksMax: nil, limits: Self.limits))
    #expect(desk.connector.match(view, computed: 0, at: desk.now) == .undecided)
    let asked = desk.control.posted.compactMap { request -> SourceID? in
      if case .resolve(_, let source, _, _, _) = request { source } else { nil }
    }
    #expect(asked == [Self.source, other])
    desk.grant(12, fetch: 2)
    #expect(desk.connector.match(view, computed: 0, at: desk.now) == .available(blocks: 12))
    #expect(desk.connector.open.fetches == 2, "P's fetch is open still")
    desk.connector.shutDown(at: desk.now)
  }

  @Test func `what landed before a late judgement counts`() throws {
    // Steps of ten seconds: every deadline passes in the step that also brings the landings.
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld(blocksPerPoll: 100)
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    world.run(3)
    world.run(6, each: .seconds(10))
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 48 && result?.account.reasons == [])
  }

  @Test func `one failure does not keep a healthy peer from the next request`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld { $0.fetch == FetchID(1) ? .failAtPost : nil }
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    _ = world.finish(1)
    world.engine.dropCache()
    try world.submit(2, prompt)
    #expect(world.finish(2)?.account.keptTokens == 48)
  }

  @Test func `the counted fallbacks are those that were told, each with its peer and reason`()
    throws
  {
    let prompts = samplePrompts(4, tokens: 50)
    let world = try ToyWorld { $0.fetch.value % 2 == 0 && $0.ordinal == 1 ? .failAtPost : nil }
    for prompt in prompts { try world.fillPeer(prompt) }
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt)
      _ = world.finish(UInt64(index + 1))
    }
    let told = world.events.filter { $0.kind == .fallback }
    #expect(told.count == 2 && world.connector.fallbacks == [.transferFailed: 2])
    #expect(
      told.allSatisfy { $0.source == .peer("P") && $0.reason == .transferFailed && $0.fetch != nil }
    )
    #expect(Set(told.map(\.request)).count == 2, "one per request")
  }
}

import RemoteG2Core
import Testing

/// What a node says to other members, and what it lets them say.
extension `A node` {
  @Test func `announces what is sealed and evicted, in a snapshot and then in changes`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(0))
    for position in 0..<2 { bench.land(bench.pulls[0].stream, position, at: Self.at(1)) }
    var (watcher, index) = (FeedWatcher(), HolderIndex(keysMax: 100))
    func hear(_ core: inout NodeCore) {
      while case .say(let message) = core.next(for: &watcher) {
        switch message {
        case .snapshot(let keys, _): index.snapshot(keys, of: "a")
        case .changes(let number, let changes):
          #expect(index.change(changes, number: number, of: "a") == true)
        default: break
        }
      }
    }
    hear(&bench.core)
    #expect(index.run(of: Self.keys[...], at: "a") == 2)
    for position in 2..<8 { bench.land(bench.pulls[0].stream, position, at: Self.at(2)) }
    hear(&bench.core)
    #expect(index.run(of: Self.keys[...], at: "a") == 8)
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(3)))
    bench.take(bench.core.received(.evict(1), from: bench.leader, at: Self.at(3)))
    hear(&bench.core)
    #expect(index.keyCount(of: "a") == 0)
  }

  @Test func `is patient for three times a member's usual first byte, whatever one pause was like`()
  {
    var bench = Bench()
    bench.announce("b", Self.keys)
    for (place, milliseconds) in [60, 60, 60, 20_000, 20_000, 20_000, 60, 60].enumerated() {
      bench.want([Self.keys[place]], lease: UInt64(place + 1), at: Self.at(10 * place))
      let stream = bench.pulls[place].stream
      bench.core.answerBegan(stream, after: .milliseconds(milliseconds))
      bench.land(stream, 0, at: Self.at(10 * place + 1))
      bench.take(bench.core.ended(stream, .served, at: Self.at(10 * place + 1)))
    }
    // Its welcome took no time; a member that stays slow is slow.
    let expected = [100, 100, 180, 180, 180, 180, 400, 400].map { Duration.milliseconds($0) }
    #expect(bench.patience == expected)
  }

  @Test
  func `does not take a member for far away because it was stopped while its feed was opened`() {
    var bench = Bench()
    for place in 0..<4 {
      // Its answer to our watching waited until one of the two went on.
      bench.announce("b", Self.keys, after: place == 0 ? .zero : .seconds(20))
      bench.want([Self.keys[place]], lease: UInt64(place + 1), at: Self.at(10 * place))
      let stream = bench.pulls[place].stream
      bench.core.answerBegan(stream, after: .milliseconds(50))
      bench.land(stream, 0, at: Self.at(10 * place + 1))
      bench.take(bench.core.ended(stream, .served, at: Self.at(10 * place + 1)))
      bench.core.lost("b", because: nil)
    }
    #expect(bench.patience == [100, 100, 150, 150].map { Duration.milliseconds($0) })
  }

  @Test func `serves a window at a time, pinned until it is sent`() {
    var bench = Bench { $0.streamWindowBytes = 2 * 8192 }
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(0))
    for position in 0..<5 { bench.land(bench.pulls[0].stream, position, at: Self.at(1)) }
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(2)))
    let hello = StreamHello(
      node: Incarnation(high: 3, low: 3), name: "b", terms: Self.terms)
    #expect(bench.core.serveBegins(hello) == .success(bench.pool))
    let window = bench.core.serve(Self.keys, from: 3, in: bench.pool)
    #expect(window.map(\.position) == [3, 4] && bench.stats.pinned == 2)
    #expect(window[0].digests == Self.digests(3))
    bench.take(bench.core.received(.evict(1), from: bench.leader, at: Self.at(3)))
    #expect(bench.stats.sealed >= 2, "what is being sent is not evicted")
    bench.core.sent(window, count: 2, in: bench.pool)
    #expect(bench.core.bytesServed == UInt64(2 * Self.terms.bytesOfAllRanks))
    #expect(bench.stats.pinned == 0 && bench.core.servedPins == 0)
    #expect(bench.core.serve(Self.keys, from: 5, in: bench.pool).isEmpty)
  }

  @Test func `shares only what is the same in every field, and names the one that differs`() {
    var bench = Bench()
    var hello = StreamHello(node: Incarnation(high: 3, low: 3), name: "b", terms: Self.terms)
    hello.terms?.fingerprint.hashScheme = "other"
    guard case .failure(let refusal) = bench.core.serveBegins(hello) else {
      Issue.record("it is served")
      return
    }
    #expect(refusal.description.contains("hash scheme"))
    bench.announce("b", Self.keys)
    var terms = Self.terms
    terms.fingerprint.modelDigest = "other"
    #expect(bench.core.heard(.pools([terms]), from: "b") == true)
    bench.want(Self.keys, at: Self.at(1))
    #expect(bench.pulls.isEmpty && bench.core.mismatch(with: "b")?.field == "model")
  }

  @Test func `forgets whom it has refused, and what a broken connection held`() {
    var bench = Bench()
    let other = bench.core.joined(at: LocalInstant(nanoseconds: 0))!
    var hello = bench.hello
    hello.version = 99
    hello.engine = Incarnation(high: 6, low: 6)
    bench.take(bench.core.received(.hello(hello), from: other, at: Self.at(1)))
    guard case .refused? = bench.said.last else {
      Issue.record("\(bench.said)")
      return
    }
    bench.take(bench.core.left(other, at: Self.at(1)))
    #expect(bench.core.report.pools[0].connections == 1)
    // The leader sends what no engine sends: what it held goes with its connection.
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(2))
    bench.land(bench.pulls[0].stream, 0, at: Self.at(3))
    #expect(
      bench.core.malformed(bench.leader).contains(.local(.close(bench.leader), pool: bench.pool)))
    bench.take(bench.core.left(bench.leader, at: Self.at(4)))
    #expect(bench.core.openCounts.questions == 0 && bench.stats.pinned == 0)
    #expect(bench.core.report.pools[0].connections == 0)
    #expect(bench.cancelled == [bench.pulls[0].stream])
  }

  @Test func `does not ask again who says that it has sent what it has not`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    bench.land(bench.pulls[0].stream, 0, at: Self.at(2))
    bench.take(bench.core.ended(bench.pulls[0].stream, .served, at: Self.at(3)))
    #expect(bench.pulls.count == 1 && bench.found == 1)
  }

  @Test func `keeps what a member announces when its answer was of no more use here`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(1))
    bench.take(bench.core.ended(bench.pulls[0].stream, .unneeded, at: Self.at(2)))
    #expect(bench.isRefused && bench.core.standing(of: "b") == .watched)
    bench.want(Self.keys, lease: 2, at: Self.at(3))
    #expect(bench.pulls.last?.keys == Self.keys)
    // A block that is not the next one is the member's fault.
    #expect(bench.core.arriving(bench.pulls[1].stream, position: 3) == .invalid)
  }

  @Test func `outlives any number that a member gives its changes`() {
    var bench = Bench()
    bench.announce("b", [])
    #expect(bench.core.heard(.changes(number: .max, []), from: "b") == true)
    #expect(bench.core.heard(.changes(number: 7, []), from: "b") == false)
  }

  @Test func `refuses a member of another name, and itself`() {
    var bench = Bench()
    let node = Incarnation(high: 4, low: 4)
    #expect(
      bench.core.watched("b", as: StreamWelcome(node: node, name: "c"), after: .zero)
        == .named("c"))
    #expect(
      bench.core.watched(
        "b", as: StreamWelcome(node: bench.core.node, name: "b"), after: .zero) == .itself)
  }

  @Test func `closes a connection of this host that does not say who it is, without any traffic`() {
    var bench = `A node`.Bench()
    let stranger = bench.core.joined(at: Self.at(1000))!
    #expect(bench.core.nextDeadline == Self.at(11_000))
    #expect(bench.core.timePassed(at: Self.at(10_999)) == [])
    #expect(
      bench.core.timePassed(at: Self.at(11_000)) == [.local(.close(stranger), pool: nil)])
    // One that has said it stays, however long it says nothing more.
    #expect(bench.core.nextDeadline == nil)
    #expect(bench.core.received(.ping(1), from: stranger, at: Self.at(11_001)) == [])
  }
}

/// What it evicts, by what others have.
extension `A node` {
  @Test func `evicts its copies first, for as long as somebody else has them`() {
    // Four slots: two copies of what b has, and two blocks of its own.
    var bench = Bench(memoryBytes: 4 * 8192)
    bench.announce("b", Array(Self.keys[0..<2]))
    bench.want(Array(Self.keys[0..<2]), at: Self.at(0))
    for position in 0..<2 { bench.land(bench.pulls[0].stream, position, at: Self.at(1)) }
    bench.take(bench.core.ended(bench.pulls[0].stream, .served, at: Self.at(1)))
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(1)))
    #expect(bench.stats.slots == 4 && bench.stats.sealed == 2)
    // c has others: the copies go for them, tail first, as often as need be.
    bench.announce("c", Array(Self.keys[2..<7]))
    bench.want(Array(Self.keys[2..<5]), lease: 2, at: Self.at(2))
    for position in 0..<3 { bench.land(bench.pulls[1].stream, position, at: Self.at(3)) }
    bench.take(bench.core.ended(bench.pulls[1].stream, .served, at: Self.at(3)))
    bench.take(bench.core.received(.release(lease: 2), from: bench.leader, at: Self.at(3)))
    #expect(bench.core.sealedKeys == Set([0, 2, 3, 4].map { Self.keys[$0] }))
    // b is gone: the copy of its first block is the last one there is, and younger copies go before it.
    bench.core.lost("b", because: nil)
    bench.want(Array(Self.keys[5..<7]), lease: 3, at: Self.at(4))
    for position in 0..<2 { bench.land(bench.pulls[2].stream, position, at: Self.at(5)) }
    #expect(bench.core.sealedKeys == Set([0, 2, 5, 6].map { Self.keys[$0] }))
  }

  /// One of its own engine's blocks is staged by both ranks, committed and sealed.
  static func save(_ key: BlockKey, _ slot: UInt32, _ ranks: [ConnectionID], in bench: inout Bench)
    throws
  {
    var actions: [NodeAction] = []
    for rank in ranks {
      actions += bench.core.received(
        .staged([StagedBlock(slot: slot, key: key)]), from: rank, at: at(0))
    }
    let commit = LocalMessage.commit([CommittedBlock(key: key, parent: nil)])
    actions += bench.core.received(commit, from: bench.leader, at: at(0))
    let copies = actions.compactMap { action -> StageCopy? in
      if case .local(.copy(let copy), _) = action { copy } else { nil }
    }
    let copy = try #require(copies.first)
    bench.take(bench.core.copied(copy, in: bench.pool, digests: digests(0)))
  }

  @Test func `evicts what another member has computed, too, before what only it has`() throws {
    var bench = Bench(memoryBytes: 2 * 8192)
    var ranks: [ConnectionID] = []
    for number in 0..<2 {
      let joined = bench.core.joined(at: Self.at(0))
      let rank = try #require(joined)
      ranks.append(rank)
      let hello = LocalHello(
        engine: Self.engine, role: .rank(number), fingerprint: Self.terms.fingerprint,
        stagingSlots: 4, blockBytes: Self.terms.blockBytes)
      bench.take(bench.core.received(.hello(hello), from: rank, at: Self.at(0)))
    }
    for place in 0..<2 { try Self.save(Self.keys[place], UInt32(place), ranks, in: &bench) }
    #expect(bench.core.sealedKeys == Set(Self.keys[0..<2]))
    bench.announce("b", [])
    bench.announce("c", [Self.keys[2]])
    let computed = FeedChange(key: Self.keys[1], isSealed: true)
    #expect(bench.core.heard(.changes(number: 1, [computed]), from: "b") == true)
    // The older of the two stays, because nobody else has it.
    bench.want([Self.keys[2]], at: Self.at(5))
    bench.land(bench.pulls[0].stream, 0, at: Self.at(6))
    #expect(bench.core.sealedKeys == [Self.keys[0], Self.keys[2]])
  }

  @Test func `keeps the last copy of what another member has evicted`() {
    var bench = Bench(memoryBytes: 2 * 8192)
    bench.announce("b", Self.keys)
    for place in 0..<2 {
      bench.want([Self.keys[place]], lease: UInt64(place + 1), at: Self.at(place))
      bench.land(bench.pulls[place].stream, 0, at: Self.at(place))
      bench.take(bench.core.ended(bench.pulls[place].stream, .served, at: Self.at(place)))
      let release = LocalMessage.release(lease: UInt64(place + 1))
      bench.take(bench.core.received(release, from: bench.leader, at: Self.at(place)))
    }
    let gone = FeedChange(key: Self.keys[0], isSealed: false, wasProtected: true)
    #expect(bench.core.heard(.changes(number: 1, [gone]), from: "b") == true)
    // The other copy is younger, and goes.
    bench.want([Self.keys[2]], lease: 3, at: Self.at(5))
    bench.land(bench.pulls[2].stream, 0, at: Self.at(6))
    #expect(bench.core.sealedKeys == [Self.keys[0], Self.keys[2]])
  }
}

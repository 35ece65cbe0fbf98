import KVConnector
import RemoteG2Core
import Testing

/// What a connector makes of a grant that does not fit the request it was asked for.
@Suite struct `Lease and plan decisions` {
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
        Desk.source,
        LeaseID(
          serial: 1, owner: Desk.source.incarnation, holder: desk.control.incarnation)))
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

  @Test func `a pull that looks slower than computing is not started, and says why`() throws {
    let desk = try Desk(pullsByCost: true)
    // The peer was seen to move 1 KB in a second.
    for _ in 0..<50 {
      var report = RankReport(rank: 0, sequence: 0)
      report.bytesMoved = [Desk.source: .init(bytes: 1000, duration: .seconds(1))]
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
      hint: try Hint(version: 1, store: "Q", blocksMax: nil, limits: Limits()))
    #expect(desk.connector.match(view, computed: 0, at: desk.now) == .undecided)
    let asked = desk.control.posted.compactMap { request -> SourceID? in
      if case .resolve(_, let source, _, _, _) = request { source } else { nil }
    }
    #expect(asked == [Desk.source, other])
    desk.grant(12, fetch: 2)
    #expect(desk.connector.match(view, computed: 0, at: desk.now) == .available(blocks: 12))
    #expect(desk.connector.open.fetches == 2, "P's fetch is open still")
    desk.connector.shutDown(at: desk.now)
  }
}

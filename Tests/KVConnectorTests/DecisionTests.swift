import KVConnector
import RemoteG2Core
import Testing

/// What a connector does about peers that answer oddly, late or not at all, and what it says of it.
@Suite struct `Decisions` {
  @Test(arguments: [0, 2, 200_000])
  func `a grant that lacks exactly one digest a rank is refused and given back`(
    digests: Int
  ) throws {
    let desk = try Desk()
    defer { desk.connector.shutDown(at: desk.now) }
    _ = try desk.match(0)
    let lease = LeaseID(
      serial: 7, owner: Desk.source.incarnation,
      holder: desk.control.incarnation)
    let block = GrantedBlock(
      slot: SlotIndex(0), generation: 1,
      digests: Array(repeating: Digest128(high: 1, low: 1), count: digests))
    desk.control.answers.append(
      .resolved(
        FetchID(1), .granted(Grant(lease: lease, ttl: .seconds(30), blocks: [block])),
        after: .milliseconds(1)))
    let outcome = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    #expect(outcome.settled.first?.reason == .refused)
    #expect(desk.control.releases.count == 1 && desk.isClean)
  }

  @Test func `a fetch that is settled does not keep another from starting`() throws {
    let limits = Limits { $0.fetchesInFlightMax = 1 }
    var desk = try Desk(limits: limits)
    defer { desk.connector.shutDown(at: desk.now) }
    let other = SourceID.peer(name: "Q", Incarnation(high: 2, low: 2))
    desk.control.peers["Q"] = .ready(other)
    desk.attach(other)
    _ = try desk.match(0)
    desk.grant(12)
    _ = try desk.match(0)
    desk.connector.bind(RequestID(1), to: (0..<12).map { BlockIndex($0) }, at: desk.now)
    _ = desk.connector.plan(at: desk.now)
    // Its host vanished: nothing lands, nothing fails, and nobody is refused.
    desk.now = desk.now + .seconds(60)
    let outcome = desk.connector.absorb([RankReport(rank: 0, sequence: 1)], at: desk.now)
    #expect(outcome.settled.count == 1 && desk.connector.open.quarantined == 12)
    let view = RequestView(
      id: RequestID(2), keys: (50..<62).map { BlockKey(high: UInt64($0), low: 1) }, blocksMax: 12,
      hint: try Hint(version: 1, store: "Q", blocksMax: nil, limits: limits))
    #expect(desk.connector.match(view, computed: 0, at: desk.now) == .undecided)
  }

  @Test func `a resolve that nobody waits for any more is released by its name`() throws {
    var desk = try Desk()
    _ = try desk.match(0)
    for _ in 0..<2 {
      desk.now = desk.now + .seconds(1)
      _ = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    }
    #expect(desk.connector.open.fetches == 0)
    #expect(desk.control.releases.count == 1, "its pins would live as long as its lease")
  }
}

import RemoteG2Core
import Testing

@Suite struct `What is remembered of a request` {
  static let id = RequestID(1)
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: 0) + .milliseconds(milliseconds)
  }

  @Test func `a handshake is waited for from the first time on, not anew each time`() {
    var table = RequestTable()
    let first = table.waits(Self.id, atMost: .milliseconds(100), at: Self.at(0))
    #expect(first && table.nextDeadline == Self.at(100))
    table.stopsWaiting(Self.id)
    #expect(table.nextDeadline == nil)
    let later = table.waits(Self.id, atMost: .milliseconds(100), at: Self.at(99))
    #expect(later && table.nextDeadline == Self.at(100))
    #expect(table.overdue(at: Self.at(99)) == [] && table.overdue(at: Self.at(100)) == [Self.id])
    table.stopsWaiting(Self.id)
    let last = table.waits(Self.id, atMost: .milliseconds(100), at: Self.at(100))
    #expect(!last && table.nextDeadline == nil)
  }

  @Test func `of several that wait the earliest is due first`() {
    var table = RequestTable()
    for (id, limit) in [(1, 70), (2, 30), (3, 50)] {
      _ = table.waits(RequestID(UInt64(id)), atMost: .milliseconds(limit), at: Self.at(0))
    }
    #expect(table.nextDeadline == Self.at(30))
    #expect(table.overdue(at: Self.at(60)) == [RequestID(2), RequestID(3)])
    table.finish(RequestID(2))
    #expect(table.nextDeadline == Self.at(50))
  }

  @Test func `each source is tried once`() {
    var table = RequestTable()
    #expect(!table.hasTriedLocal(Self.id) && !table.hasTriedPeer(Self.id))
    table.triesLocal(Self.id)
    #expect(table.hasTriedLocal(Self.id) && !table.hasTriedPeer(Self.id))
    table.triesPeer(Self.id)
    #expect(table.hasTriedPeer(Self.id) && !table.hasTriedPeer(RequestID(2)))
  }

  @Test func `only the settle of the open fetch ends it`() {
    var table = RequestTable()
    table.began(FetchID(1), for: Self.id)
    table.settled(FetchID(2), for: Self.id)
    #expect(table.active(of: Self.id) == FetchID(1))
    table.settled(FetchID(1), for: Self.id)
    #expect(table.active(of: Self.id) == nil)
  }

  @Test func `the fetch of a request that left is abandoned, and told once`() {
    var table = RequestTable()
    table.began(FetchID(1), for: Self.id)
    table.began(FetchID(2), for: RequestID(2))
    table.settled(FetchID(2), for: RequestID(2))
    table.finish(Self.id)
    table.finish(RequestID(2))
    #expect(table.hasAbandoned)
    let taken = table.takeAbandoned()
    let again = table.takeAbandoned()
    #expect(taken == [FetchID(1)] && again == [] && !table.hasAbandoned)
  }

  @Test func `a reason is counted where it is told, and for nobody who has left`() {
    var table = RequestTable()
    table.note(.gone, for: Self.id)
    #expect(table.fallbacks == [:], "nobody knows this request")
    table.triesPeer(Self.id)
    table.note(.gone, for: Self.id)
    table.note(.slower, for: Self.id)
    table.note(.gone, for: Self.id)
    #expect(table.reasons(of: Self.id) == [.gone, .slower, .gone])
    #expect(table.fallbacks == [.gone: 2, .slower: 1])
    table.finish(Self.id)
    table.note(.gone, for: Self.id)
    #expect(table.fallbacks[.gone] == 2 && table.reasons(of: Self.id) == [])
  }
}

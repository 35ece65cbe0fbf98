import RemoteG2Core
import Testing

/// How fast members are, and what follows from that.
extension `A node` {
  @Test func `remembers that a member sent not one block in time, and asks it again later`() {
    var bench = Bench(members: ["b"])
    bench.announce("b", Self.keys)
    bench.want(Self.keys, lease: 1, pace: .milliseconds(100), at: Self.at(0))
    #expect(bench.pulls.count == 1)
    bench.take(bench.core.timePassed(at: Self.at(880)))
    #expect(bench.isRefused && bench.cancelled == [bench.pulls[0].stream])
    bench.take(bench.core.ended(bench.pulls[0].stream, .broken, at: Self.at(881)))
    bench.want(Self.keys, lease: 2, pace: .milliseconds(100), at: Self.at(900))
    #expect(bench.pulls.count == 1 && bench.core.shortfalls[.cost] == 1, "it is waited for again")
    bench.want(Self.keys, lease: 3, pace: .milliseconds(100), at: Self.at(11_000))
    #expect(bench.pulls.count == 2)
    // One that nobody waited for for long says nothing.
    bench.take(bench.core.left(bench.leader, at: Self.at(11_020)))
    bench.take(bench.core.ended(bench.pulls[1].stream, .broken, at: Self.at(11_021)))
    #expect(bench.core.report.members.first?.bytesPerSecond ?? 0 < 100_000)
  }

  @Test
  func `gives a member up within its first block where that is plainly too slow, and remembers`() {
    // 65,536 bytes are worth 8.8 s: with 4,964 a second they would take one and a half times as long.
    for (rate, isGivenUp) in [(4_964.0, false), (3_000.0, true)] {
      var bench = Bench()
      bench.announce("b", Self.keys)
      bench.want(Self.keys, at: Self.at(0))
      let stream = bench.pulls[0].stream
      _ = bench.core.arriving(stream, position: 0)
      bench.take(
        bench.core.paced(stream, bytesPerSecond: rate, received: 200, at: Self.at(60)))
      #expect(bench.isRefused == isGivenUp && (bench.cancelled == [stream]) == isGivenUp)
      guard isGivenUp else { continue }
      #expect(bench.core.shortfalls == [.outpaced: 1])
      bench.take(bench.core.ended(stream, .broken, at: Self.at(61)))
      #expect(bench.core.openCounts == (0, 0) && bench.stats.writing == 0)
      bench.want(Self.keys, lease: 2, at: Self.at(100))
      #expect(bench.pulls.count == 1 && bench.core.shortfalls[.cost] == 1)
    }
    // Once a block has come, blocks say more.
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(0))
    bench.land(bench.pulls[0].stream, 0, at: Self.at(1))
    bench.take(
      bench.core.paced(bench.pulls[0].stream, bytesPerSecond: 1, received: 1, at: Self.at(60)))
    #expect(!bench.isRefused && bench.cancelled.isEmpty)
  }

  @Test func `judges a question that shares a fetch by its own part of it`() {
    // Of eight blocks one wants all, and another the first two.
    func asked() -> Bench {
      var bench = Bench()
      bench.announce("b", Self.keys)
      bench.want(Self.keys, lease: 1, pace: .milliseconds(100), at: Self.at(0))
      bench.want(
        Array(Self.keys[0..<2]), lease: 2, pace: .milliseconds(100), at: Self.at(1))
      #expect(bench.pulls.count == 1 && bench.core.openCounts.questions == 2)
      return bench
    }
    // 60 ms a block: two of them are worth 220 ms.
    var bench = asked()
    bench.land(bench.pulls[0].stream, 0, at: Self.at(60))
    #expect(bench.core.openCounts.questions == 2 && bench.core.shortfalls.isEmpty)
    // Twice that, within the first block: 164 ms for two.
    bench = asked()
    _ = bench.core.arriving(bench.pulls[0].stream, position: 0)
    let stream = bench.pulls[0].stream
    bench.take(
      bench.core.paced(stream, bytesPerSecond: 100_000, received: 5_000, at: Self.at(60)))
    #expect(bench.core.openCounts.questions == 2 && bench.core.shortfalls.isEmpty)
  }

  @Test func `computes what a slow member would take longer for`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(0))
    for position in 0..<8 { bench.land(bench.pulls[0].stream, position, at: Self.at(800)) }
    bench.take(bench.core.ended(bench.pulls[0].stream, .served, at: Self.at(800)))
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(801)))
    // 100 ms a block were measured; this engine computes one in 50.
    let more = (20..<28).map { BlockKey(high: UInt64($0), low: 9) }
    bench.announce("b", more)
    bench.want(more, lease: 2, pace: .milliseconds(50), at: Self.at(900))
    #expect(bench.pulls.count == 1 && bench.core.shortfalls[.cost] == 1)
    bench.want(more, lease: 3, pace: .milliseconds(150), at: Self.at(901))
    #expect(bench.pulls.count == 2)
  }

  @Test func `asks a member again that was slow a while ago`() {
    var bench = Bench()
    bench.announce("b", Self.keys)
    bench.want(Self.keys, at: Self.at(0))
    for position in 0..<8 { bench.land(bench.pulls[0].stream, position, at: Self.at(800)) }
    bench.take(bench.core.ended(bench.pulls[0].stream, .served, at: Self.at(800)))
    bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: Self.at(801)))
    let more = (20..<28).map { BlockKey(high: UInt64($0), low: 9) }
    bench.announce("b", more)
    bench.want(more, lease: 2, pace: .milliseconds(50), at: Self.at(10_799))
    #expect(bench.pulls.count == 1 && bench.core.shortfalls[.cost] == 1)
    bench.want(more, lease: 3, pace: .milliseconds(50), at: Self.at(10_800))
    #expect(bench.pulls.count == 2)
  }
}

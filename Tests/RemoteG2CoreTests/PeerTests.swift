import RemoteG2Core
import Testing

@Suite struct `Peer breaker` {
  static let start = LocalInstant(nanoseconds: 0)
  static func at(_ milliseconds: Int) -> LocalInstant { start + .milliseconds(milliseconds) }

  @Test func `a refused connection opens it at once`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    breaker.refused(at: Self.at(1), chance: 1)
    #expect(!breaker.isClosed)
    #expect(breaker.retryAt == Self.at(51))
    let isAllowed = breaker.mayAsk(at: Self.at(50))
    #expect(!isAllowed)
  }

  @Test func `many calls that fail together are one death`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    for _ in 0..<20 {
      breaker.refused(at: Self.at(5), chance: 1)
      breaker.missed(at: Self.at(5), lateness: .zero, chance: 1)
    }
    #expect(breaker.retryAt == Self.at(55) && breaker.openedCount == 1)
  }

  @Test func `three missed deadlines open it only after a second without any answer`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    for time in [100, 200, 300, 900] {
      breaker.missed(at: Self.at(time), lateness: .zero, chance: 1)
      #expect(breaker.isClosed, "it opened after \(time) ms")
    }
    breaker.missed(at: Self.at(1000), lateness: .zero, chance: 1)
    #expect(!breaker.isClosed)
    #expect(breaker.peerSilent == 5)
  }

  @Test func `a death is counted once, however often a probe of it fails`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    breaker.refused(at: Self.at(1), chance: 1)
    for time in [100, 300] {
      let mayProbe = breaker.mayAsk(at: Self.at(time))
      #expect(mayProbe)
      breaker.refused(at: Self.at(time), chance: 1)
    }
    #expect(breaker.openedCount == 1)
    breaker.answered(at: Self.at(600))
    // It starts with the shortest back-off again.
    breaker.refused(at: Self.at(700), chance: 1)
    #expect(breaker.openedCount == 2 && breaker.retryAt == Self.at(750))
    // A probe that our own timer was late for says nothing about the peer, and is made again.
    let mayProbe = breaker.mayAsk(at: Self.at(750))
    #expect(mayProbe)
    breaker.missed(at: Self.at(800), lateness: .milliseconds(6), chance: 1)
    #expect(breaker.weWereLate == 1 && breaker.peerSilent == 0 && breaker.retryAt == Self.at(900))
  }

  @Test func `an answer of any kind starts the count again`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    for round in 0..<10 {
      breaker.missed(at: Self.at(round * 3000 + 1200), lateness: .zero, chance: 1)
      breaker.missed(at: Self.at(round * 3000 + 1300), lateness: .zero, chance: 1)
      breaker.answered(at: Self.at(round * 3000 + 1400))
    }
    #expect(breaker.isClosed && breaker.openedCount == 0)
  }

  @Test func `our own lateness says nothing about the peer`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    for time in 1...20 {
      breaker.missed(at: Self.at(time * 1000), lateness: .milliseconds(6), chance: 1)
    }
    #expect(breaker.isClosed)
    #expect(breaker.weWereLate == 20 && breaker.peerSilent == 0)
  }

  @Test func `one probe at a time, and back-off doubles to its limit`() {
    let limits = Limits()
    var breaker = PeerBreaker(limits: limits, at: Self.start)
    breaker.refused(at: Self.start, chance: 1)
    var waits: [Duration] = []
    var now = Self.start
    for _ in 0..<12 {
      let retry = breaker.retryAt ?? now
      waits.append(retry - now)
      now = retry
      let first = breaker.mayAsk(at: now)
      let second = breaker.mayAsk(at: now)
      #expect(first && !second, "two probes went at once")
      breaker.missed(at: now, lateness: .zero, chance: 1)
    }
    #expect(waits.first == limits.breakerBackoffMin)
    #expect(waits.last == limits.breakerBackoffMax)
    for (a, b) in zip(waits, waits.dropFirst()) {
      #expect(b == min(a * 2, limits.breakerBackoffMax))
    }
    breaker.answered(at: now)
    let isAllowed = breaker.mayAsk(at: now)
    #expect(breaker.isClosed && isAllowed, "it healed without a restart")
  }

  @Test func `chance spreads the back-off over its upper half`() {
    for chance in [0.0, 0.5, 1.0] {
      var breaker = PeerBreaker(limits: Limits(), at: Self.start)
      breaker.refused(at: Self.start, chance: chance)
      #expect(
        breaker.retryAt == Self.start + .milliseconds(25) + .microseconds(Int(25_000 * chance)))
    }
  }

  @Test func `chance beyond its range counts as the end of the range`() {
    for (chance, milliseconds) in [(-3.0, 25), (7.0, 50)] {
      var breaker = PeerBreaker(limits: Limits(), at: Self.start)
      breaker.refused(at: Self.start, chance: chance)
      #expect(breaker.retryAt == Self.at(milliseconds))
    }
  }

  @Test func `silence is counted from the last answer, and misses from it too`() {
    var breaker = PeerBreaker(limits: Limits(), at: Self.start)
    breaker.answered(at: Self.at(5000))
    for time in [5100, 5200, 5300, 5999] {
      breaker.missed(at: Self.at(time), lateness: .zero, chance: 1)
    }
    #expect(breaker.isClosed, "it answered less than a second ago")
    breaker.missed(at: Self.at(6000), lateness: .zero, chance: 1)
    #expect(!breaker.isClosed)
    var seldom = PeerBreaker(limits: Limits(), at: Self.start)
    for time in [9000, 9100] { seldom.missed(at: Self.at(time), lateness: .zero, chance: 1) }
    #expect(seldom.isClosed, "two misses are not three")
    // Five milliseconds late are on time.
    seldom.missed(at: Self.at(9200), lateness: .milliseconds(5), chance: 1)
    #expect(!seldom.isClosed && seldom.weWereLate == 0)
  }
}

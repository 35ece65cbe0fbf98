import RemoteG2Core
import Testing

@Suite struct `A silence` {
  private static let start = LocalInstant(nanoseconds: 0)

  /// Whether a silence of at most 100 ms is over, at a look `late` milliseconds later than it was meant.
  private static func isOver(_ silence: inout Silence, at time: Int, late: Int) -> Bool {
    silence.isOver(
      after: .milliseconds(100), lateness: .milliseconds(late), Limits(),
      at: start + .milliseconds(time))
  }

  @Test func `does not count the time in which we were late ourselves`() {
    var silence = Silence(since: Self.start)
    let looks = [(99, 0, false), (120, 40, false), (139, 0, false), (140, 0, true)]
    for (time, late, expected) in looks {
      let isOver = Self.isOver(&silence, at: time, late: late)
      #expect(isOver == expected, "at \(time) ms")
    }
  }

  @Test(arguments: [100, 300]) func `is forgiven a look that came very late, once`(late: Int) {
    var silence = Silence(since: Self.start)
    let looks = [(1000, late, false), (1099, 0, false), (1300, 150, true)]
    for (time, late, expected) in looks {
      let isOver = Self.isOver(&silence, at: time, late: late)
      #expect(isOver == expected, "at \(time) ms")
    }
  }

  @Test func `is not forgiven a look that came a little late`() {
    var silence = Silence(since: Self.start)
    let isOver = Self.isOver(&silence, at: 1000, late: 99)
    #expect(isOver)
  }

  @Test
  func `ends for who wakes late each time, though its span is no whole number of nanoseconds`() {
    let most = Duration.milliseconds(100) + Duration(secondsComponent: 0, attosecondsComponent: 1)
    var silence = Silence(since: Self.start)
    var looks = 0
    var isOver = false
    while !isOver, looks < 10 {
      // Whoever waits for it sleeps until then, and wakes a little later.
      let due = silence.since + most
      isOver = silence.isOver(
        after: most, lateness: .nanoseconds(50), Limits(), at: due + .nanoseconds(50))
      looks += 1
    }
    #expect(isOver && looks == 1)
  }
}

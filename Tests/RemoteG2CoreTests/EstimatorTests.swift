import RemoteG2Core
import Testing

@Suite struct `What pulls cost` {
  @Test func `a pull costs two questions and its bytes over the lanes`() {
    var estimator = Estimator(prefillTokensPerSecond: 1000, bytesPerSecond: 1e6)
    estimator.answered(.peer("P"), after: .milliseconds(10))
    estimator.moved(bytes: 1_000_000, from: .peer("P"), in: .seconds(1))
    #expect(estimator.pullTime(bytes: 4_000_000, from: .peer("P"), lanes: 4) == .milliseconds(1020))
    #expect(estimator.recomputeTime(tokens: 500) == .milliseconds(500))
  }

  @Test func `one peer's slowness is not another's`() {
    var estimator = Estimator(bytesPerSecond: 1e8)
    for _ in 0..<50 { estimator.moved(bytes: 1000, from: .peer("slow"), in: .seconds(1)) }
    let slow = estimator.pullTime(bytes: 1 << 20, from: .peer("slow"), lanes: 1)
    let other = estimator.pullTime(bytes: 1 << 20, from: .peer("other"), lanes: 1)
    #expect(slow > other * 100)
  }

  @Test(arguments: [true, false])
  func `a peer that was too slow once is tried again`(hasMoved: Bool) {
    var estimator = Estimator(prefillTokensPerSecond: 200, bytesPerSecond: 1e8)
    // Slow to move, or slow to answer and nothing moved at all.
    if hasMoved {
      estimator.moved(bytes: 1000, from: .peer("P"), in: .seconds(1))
    } else {
      estimator.answered(.peer("P"), after: .seconds(20))
    }
    func isWorth() -> Bool {
      estimator.pullTime(bytes: 1 << 20, from: .peer("P"), lanes: 4)
        < estimator.recomputeTime(tokens: 256)
    }
    #expect(!isWorth())
    var declines = 0
    while !isWorth(), declines < 1000 {
      estimator.declined(.peer("P"))
      declines += 1
    }
    #expect(declines < 100, "it took \(declines) requests to look again")
  }

  @Test func `an observation weighs a quarter, the first of a source all`() {
    var estimator = Estimator(prefillTokensPerSecond: 1000, bytesPerSecond: 1e6)
    estimator.prefilled(tokens: 500, in: .seconds(1))
    #expect(estimator.prefillTokensPerSecond == 875)
    estimator.moved(bytes: 1000, from: .peer("P"), in: .seconds(1))
    #expect(estimator.moveTime(bytes: 1000, from: .peer("P")) == .seconds(1))
    estimator.moved(bytes: 5000, from: .peer("P"), in: .seconds(1))
    #expect(estimator.moveTime(bytes: 2000, from: .peer("P")) == .seconds(1))
    estimator.answered(.peer("P"), after: .milliseconds(10))
    estimator.answered(.peer("P"), after: .milliseconds(50))
    #expect(estimator.pullTime(bytes: 0, from: .peer("P"), lanes: 4) == .milliseconds(40))
  }

  @Test func `steps too short to tell, and what took no time, are not observed`() {
    var estimator = Estimator(prefillTokensPerSecond: 1000, bytesPerSecond: 1e6)
    estimator.prefilled(tokens: 15, in: .seconds(1))
    estimator.prefilled(tokens: 100, in: .zero)
    estimator.moved(bytes: 0, from: .peer("P"), in: .seconds(1))
    estimator.moved(bytes: 1000, from: .peer("P"), in: .zero)
    #expect(estimator.prefillTokensPerSecond == 1000)
    #expect(estimator.moveTime(bytes: 1_000_000, from: .peer("P")) == .seconds(1))
    estimator.prefilled(tokens: 16, in: .seconds(1))
    #expect(estimator.prefillTokensPerSecond == 754)
  }

  @Test func `of a source that has gone nothing is remembered, and no lane counts as one`() {
    var estimator = Estimator(bytesPerSecond: 1e6)
    let unknown = estimator.pullTime(bytes: 1_000_000, from: .peer("P"), lanes: 1)
    #expect(unknown == .milliseconds(1004))
    #expect(estimator.pullTime(bytes: 1_000_000, from: .peer("P"), lanes: 0) == unknown)
    estimator.moved(bytes: 1000, from: .peer("P"), in: .seconds(1))
    estimator.answered(.peer("P"), after: .seconds(1))
    estimator.forget(.peer("P"))
    #expect(estimator.pullTime(bytes: 1_000_000, from: .peer("P"), lanes: 1) == unknown)
  }
}

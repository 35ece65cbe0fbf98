import KVTransfer
import Testing

@Suite struct `The pump's naps` {
  static func micro(_ count: Int) -> Duration { .microseconds(count) }

  @Test func `double from a tenth of a millisecond to one while nothing happens`() {
    var naps = PumpNaps()
    var taken: [PumpNaps.Nap] = []
    for _ in 0..<6 { taken.append(naps.next(isIdle: false, canHear: false)) }
    #expect(taken == [100, 200, 400, 800, 1000, 1000].map { .deaf(Self.micro($0)) })
    naps.worked()
    #expect(naps.next(isIdle: false, canHear: false) == .deaf(Self.micro(100)))
  }

  @Test func `reach twenty milliseconds where a descriptor would end them`() {
    var naps = PumpNaps()
    var taken: [PumpNaps.Nap] = []
    for _ in 0..<10 {
      taken.append(naps.next(isIdle: false, canHear: true))
      naps.woke(by: .time)
    }
    #expect(
      taken
        == [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 20_000, 20_000]
        .map { .hearing(Self.micro($0)) })
  }

  @Test func `after a descriptor are deaf once, and longer each time that it was for nothing`() {
    var naps = PumpNaps()
    func next() -> PumpNaps.Nap { naps.next(isIdle: false, canHear: true) }
    var deaf: [PumpNaps.Nap] = []
    for _ in 0..<6 {
      #expect(next() == .hearing(Self.micro(100)))
      naps.woke(by: .descriptor)
      deaf.append(next())
    }
    #expect(deaf == [100, 200, 400, 800, 1000, 1000].map { .deaf(Self.micro($0)) })
    // Silence is what it was told of: the next false alarm costs the shortest nap again.
    #expect(next() == .hearing(Self.micro(100)))
    naps.woke(by: .time)
    #expect(next() == .hearing(Self.micro(200)))
    naps.woke(by: .descriptor)
    #expect(next() == .deaf(Self.micro(100)))
  }

  @Test func `are as they were after an order that changed nothing`() {
    var naps = PumpNaps()
    _ = naps.next(isIdle: false, canHear: true)
    naps.woke(by: .time)
    let before = naps
    naps.woke(by: .order)
    #expect(naps == before && naps.next(isIdle: false, canHear: true) == .hearing(Self.micro(200)))
  }

  @Test func `last until an order comes when nothing is posted or queued`() {
    var naps = PumpNaps()
    #expect(naps.next(isIdle: true, canHear: true) == .deaf(.seconds(3600)))
    #expect(naps.next(isIdle: true, canHear: false) == .deaf(.seconds(3600)))
  }
}

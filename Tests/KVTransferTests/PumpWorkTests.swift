import KVTransfer
import RemoteG2Core
import Testing

/// How much a pump does at once, and when it may sleep.
@Suite struct `A pump's work` {
  /// Tells of its bytes by a descriptor.
  final class HearableTransport: Transport {
    let inner: MemoryTransport
    init(_ inner: MemoryTransport) { self.inner = inner }
    func attach(
      _ source: SourceID, _ description: SourceDescription
    ) throws(TransferFailure) {
      try inner.attach(source, description)
    }
    func detach(_ source: SourceID) { inner.detach(source) }
    func post(
      _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
    ) throws(TransferFailure) {
      try inner.post(transfer, from: source, moves, at: now)
    }
    func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
      inner.poll(at: now, into: &events)
    }
    func fence(_ source: SourceID) { inner.fence(source) }
    var inFlightCount: Int { inner.inFlightCount }
    var eventDescriptors: [Int32]? { [7] }
    func shutDown() { inner.shutDown() }
  }

  final class Bench {
    let world = MemoryWorld()
    let pump: PumpCore
    let watcher = `The pump`.Rig.Watcher()
    var now = LocalInstant(nanoseconds: 1)
    var report = PumpReport()

    init(limits: Limits = Limits(), blocksPerPoll: Int = 100) {
      pump = PumpCore(
        target: world.target,
        peers: HearableTransport(
          MemoryTransport(
            target: world.target, fabric: world.fabric, blocksPerPoll: blocksPerPoll)), rank: 0,
        limits: limits, rig: watcher)
      pump.handle(.attach(1, world.source, world.description), at: now)
    }

    func order(_ order: RankOrder) { pump.handle(.rank(order), at: now) }

    func load(blocks: Int) {
      order(
        .load(
          FetchID(1), from: world.source,
          moves: (0..<blocks).map { BlockMove(target: BlockIndex($0), source: SlotIndex($0)) },
          stall: .milliseconds(50)))
    }

    /// - Returns: Whether the last turn did anything.
    @discardableResult
    func run(_ turns: Int = 1) -> Bool {
      var didWork = false
      for _ in 0..<turns {
        now = now + .milliseconds(1)
        didWork = pump.run(at: now)
        report.merge(pump.takeReport())
      }
      return didWork
    }

    var progress: RankProgress? { report.progress[FetchID(1)] }
  }

  @Test func `four blocks are digested at a time, and the pump comes back for the rest`() {
    let bench = Bench()
    bench.load(blocks: 12)
    bench.run(2)
    #expect(bench.progress?.landed == 12 && bench.pump.isIdle)
    bench.order(.checkDigests(FetchID(1), (0..<12).map { bench.world.expected(slot: $0) }))
    #expect(!bench.pump.isIdle)
    for _ in 0..<2 { #expect(bench.run() && bench.progress?.proved == nil) }
    #expect(bench.run() && bench.progress?.proved == 12)
    #expect(!bench.run() && bench.pump.isIdle)
  }

  @Test func `what has not landed is not digested`() {
    let bench = Bench(blocksPerPoll: 1)
    bench.load(blocks: 12)
    bench.run(3)
    bench.order(.stopPosting(FetchID(1)))
    bench.order(.checkDigests(FetchID(1), (0..<12).map { bench.world.expected(slot: $0) }))
    bench.run()
    #expect(bench.progress?.landed == 0 && bench.progress?.proved == 0)
  }

  @Test func `a transfer carries as many blocks as its bytes allow`() {
    for (bytes, blocks) in [(2 * 4096, 2), (2 * 4096 - 1, 1), (1, 1), (5 * 4096, 5), (1 << 20, 16)]
    {
      let bench = Bench(limits: Limits { $0.transferBytesMax = bytes })
      bench.load(blocks: 20)
      bench.run()
      let first = bench.watcher.seen.first { $0.moment == .posted }
      #expect(first?.bytes == blocks * 4096, "\(bytes) bytes a transfer")
    }
  }

  @Test func `an idle pump sleeps until an order, and a busy one says by what it can be woken`() {
    let bench = Bench(blocksPerPoll: 1)
    #expect(bench.pump.isIdle && bench.pump.eventDescriptors == [7])
    bench.load(blocks: 2)
    #expect(!bench.pump.isIdle, "something is to be posted")
    bench.run()
    #expect(!bench.pump.isIdle && bench.pump.stats.counts.transfersInFlight == 1)
    #expect(bench.pump.eventDescriptors == [7])
    bench.run()
    #expect(bench.pump.isIdle && bench.progress?.posting == .ended)
    #expect(bench.pump.stats.loads == 1 && bench.pump.stats.isMoving)
    bench.order(.forget(FetchID(1)))
    bench.order(
      .stage([
        BlockSave(
          block: BlockIndex(0), key: bench.world.key(0), store: Incarnation(high: 1, low: 1))
      ]))
    #expect(!bench.pump.isIdle, "a block is to be staged")
    #expect(bench.pump.eventDescriptors == nil, "no descriptor tells when staging memory is free")
    #expect(bench.pump.stats.savesQueued == 1)
    bench.run()
    #expect(bench.report.stagings.map(\.isStaged) == [false], "there is no such store")
    #expect(bench.report.unlinked == [Incarnation(high: 1, low: 1)])
    #expect(bench.pump.stats.counts.savesDropped == 1)
    #expect(bench.pump.isIdle && !bench.pump.stats.isMoving)
  }

  @Test func `what landed is told by source, with the time that its transfers took`() {
    let limits = Limits {
      $0.transfersPostedMax = 1
      $0.transferBlocksMax = 3
    }
    let bench = Bench(limits: limits, blocksPerPoll: 1)
    bench.load(blocks: 6)
    bench.run(9)
    #expect(bench.progress?.landed == 6)
    let seen = bench.watcher.seen
    #expect(seen.map(\.moment) == [.posted, .landed, .posted, .landed])
    #expect(bench.progress?.lastLanding == seen.last?.at)
    // Each was posted, and landed two turns later.
    let moved = bench.report.moved[bench.world.source]
    #expect(moved == .init(bytes: 6 * 4096, duration: .milliseconds(4)))
    #expect(bench.pump.stats.counts.bytesMoved == 6 * 4096)
  }

  @Test func `silence is counted from a post, and a late pump charges little of it`() {
    let limits = Limits()
    let bench = Bench(limits: limits)
    bench.world.fabric.stop(bench.world.source)
    bench.load(blocks: 1)
    bench.run()
    // Forty-nine milliseconds of it on time.
    bench.run(49)
    #expect(bench.progress?.stalledAt == nil)
    #expect(bench.run() && bench.progress?.stalledAt == bench.now)
    #expect(!bench.run(), "a stall is told once")

    let late = Bench(limits: limits)
    late.world.fabric.stop(late.world.source)
    late.load(blocks: 1)
    late.run()
    // Each comes 31 ms after the last: ten of them are charged.
    for turn in 1...5 {
      late.now = late.now + .milliseconds(30)
      late.run()
      #expect((late.progress?.stalledAt != nil) == (turn == 5), "turn \(turn)")
    }
  }
}

import ContentDigest
import Foundation
import KVTransfer
import KVTransferTesting
import OSThreads
import RemoteG2Core
import Testing
import TransferRig

/// A patterned source and an empty target in this process.
final class MemoryWorld: @unchecked Sendable {
  // @unchecked: one test at a time.
  static let blockBytes = 4096
  let source = SourceID.peer(name: "source", Incarnation(high: 1, low: 1))
  let fabric = MemoryFabric()
  let pool: BlockRegion
  let target: BlockRegion

  init(slots: Int = 32, blocks: Int = 64) {
    func region(_ count: Int) -> BlockRegion {
      let base = UnsafeMutableRawPointer.allocate(
        byteCount: count * Self.blockBytes, alignment: 4096)
      memset(base, 0xEE, count * Self.blockBytes)
      return BlockRegion(base: base, blockBytes: Self.blockBytes, blockCount: count)
    }
    pool = region(slots)
    target = region(blocks)
    TransportConformance.fill(pool)
    fabric.publish(source, pool)
  }

  deinit {
    pool.base.deallocate()
    target.base.deallocate()
  }

  var description: SourceDescription { .mapped(pool, owner: 0) }

  func key(_ slot: Int) -> BlockKey { BlockKey(high: UInt64(slot), low: 9) }

  /// What a slot's block must be, under the slot's own key.
  func expected(slot: Int) -> ExpectedBlock {
    ExpectedBlock(
      key: key(slot),
      digests: [ContentDigest.of(pool.bytes(of: slot), key: key(slot), rank: 0)])
  }

  func holds(_ block: Int, slot: Int) -> Bool {
    zip(target.bytes(of: block), pool.bytes(of: slot)).allSatisfy { $0 == $1 }
  }
}

@Suite struct `Transport conformance` {
  @Test func `the memory transport conforms`() {
    let world = MemoryWorld()
    let suite = TransportConformance(
      MemoryTransport(target: world.target, fabric: world.fabric), target: world.target,
      source: world.source, description: world.description, slotCount: 32)
    #expect(suite.run() == [])
  }

  @Test func `the mapped transport conforms`() {
    let world = MemoryWorld()
    let suite = TransportConformance(
      MappedTransport(target: world.target), target: world.target, source: world.source,
      description: world.description, slotCount: 32)
    #expect(suite.run() == [])
  }

  @Test func `a faulty transport without faults conforms`() {
    let world = MemoryWorld()
    let inner = MemoryTransport(target: world.target, fabric: world.fabric)
    let suite = TransportConformance(
      FaultyTransport(inner, target: world.target) { _ in nil }, target: world.target,
      source: world.source, description: world.description, slotCount: 32)
    #expect(suite.run() == [])
  }

  @Test(arguments: [TransferFault.corrupt, .hang, .halfComplete, .lateLanding])
  func `the suite notices a transport that misbehaves`(fault: TransferFault) {
    let world = MemoryWorld()
    let inner = MemoryTransport(target: world.target, fabric: world.fabric)
    let suite = TransportConformance(
      FaultyTransport(inner, target: world.target) { _ in fault }, target: world.target,
      source: world.source, description: world.description, slotCount: 32, secondsMax: 1)
    #expect(!suite.run().isEmpty)
  }
}

@Suite struct `The pump` {

  /// A pump over a world in which chosen transfers go wrong.
  struct Rig {
    let world = MemoryWorld()
    let faulty: FaultyTransport
    let pump: PumpCore
    var now = LocalInstant(nanoseconds: 1)
    var report = PumpReport()

    let watcher = Watcher()

    /// Sees every transfer's moments, and holds the pump to nothing.
    final class Watcher: PumpRig {
      private(set) var seen: [TransferTrace] = []
      var count: Int { 0 }
      func obey(_ order: [UInt8]) -> PumpTuning { PumpTuning() }
      func saw(_ moment: TransferTrace) { seen.append(moment) }
    }

    init(transferBlocks: Int = 4, fault: @escaping (TransferID) -> TransferFault? = { _ in nil }) {
      let inner = MemoryTransport(target: world.target, fabric: world.fabric, blocksPerPoll: 2)
      faulty = FaultyTransport(inner, target: world.target, fault: fault)
      pump = PumpCore(
        target: world.target, peers: faulty, rank: 0, limits: Limits(),
        transferBlocksMax: transferBlocks, rig: watcher)
      pump.handle(.attach(1, world.source, world.description), at: now)
    }

    mutating func load(_ fetch: Int, blocks: Int, at first: Int = 0) {
      let moves = (0..<blocks).map {
        BlockMove(target: BlockIndex(first + $0), source: SlotIndex($0))
      }
      pump.handle(
        .rank(
          .load(FetchID(UInt64(fetch)), from: world.source, moves: moves, stall: .milliseconds(50))),
        at: now)
    }

    mutating func run(_ turns: Int) {
      for _ in 0..<turns {
        now = now + .milliseconds(1)
        _ = pump.run(at: now)
        report.merge(pump.takeReport())
      }
    }

    func progress(_ fetch: Int) -> RankProgress? { report.progress[FetchID(UInt64(fetch))] }
  }

  @Test func `blocks land in order and the end is quiet`() {
    var rig = Rig()
    rig.load(1, blocks: 12)
    rig.run(40)
    #expect(
      rig.progress(1)
        == RankProgress(
          landed: 12, posting: .ended,
          lastLanding: rig.progress(1)?.lastLanding, active: rig.progress(1)?.active ?? .zero))
    for block in 0..<12 { #expect(rig.world.holds(block, slot: block)) }
    #expect(rig.report.loadErrors.isEmpty)
    #expect(rig.pump.isIdle)
  }

  @Test(arguments: [
    TransferFault.failAtPost, .halfComplete, .lateLanding, .refuseRelease, .peerGone,
  ])
  func `a failure keeps what landed before it, reports the rest once, and ends quiet`(
    fault: TransferFault
  ) {
    var rig = Rig { $0.ordinal == 2 ? fault : nil }
    rig.load(1, blocks: 20)
    rig.run(100)
    #expect(rig.faulty.applied[fault] == 1, "the fault did not happen")
    let progress = rig.progress(1)
    #expect(progress?.landed == 8)
    #expect(progress?.failure != nil)
    #expect(progress?.isQuiet == true && progress?.isTerminal == true)
    #expect(rig.report.loadErrors == (8..<20).map { BlockIndex($0) })
    #expect(rig.pump.stats.counts.transfersInFlight == 0)
  }

  @Test func `a failed transfer's blocks are unquiet until its last byte has landed`() {
    var rig = Rig { $0.ordinal == 0 ? .lateLanding : nil }
    rig.load(1, blocks: 4)
    rig.run(5)
    #expect(rig.progress(1)?.failure != nil)
    #expect(rig.progress(1)?.isQuiet == false)
    #expect(rig.progress(1)?.unquiet == [0, 1, 2, 3])
    rig.run(40)
    #expect(rig.progress(1)?.isQuiet == true)
    #expect(rig.progress(1)?.unquiet == [])
  }

  @Test func `a hanging transfer is never quiet by itself, and is when its source is proved dead`()
  {
    var rig = Rig { $0.ordinal == 1 ? .hang : nil }
    rig.load(1, blocks: 8)
    rig.run(500)
    #expect(rig.faulty.applied[.hang] == 1)
    #expect(rig.progress(1)?.landed == 4 && rig.progress(1)?.isQuiet == false)
    rig.pump.handle(.rank(.stopPosting(FetchID(1))), at: rig.now)
    rig.run(500)
    #expect(rig.progress(1)?.isQuiet == false)
    rig.pump.handle(.rank(.sourceDied(rig.world.source)), at: rig.now)
    rig.run(3)
    #expect(rig.progress(1)?.isQuiet == true)
    #expect(rig.pump.stats.counts.transfersInFlight == 0)
  }

  @Test func `what lands after it was given up is counted as late`() {
    var rig = Rig { $0.ordinal == 1 ? .hang : nil }
    rig.load(1, blocks: 8)
    rig.run(100)
    #expect(rig.faulty.applied[.hang] == 1)
    #expect(rig.pump.stats.counts.bytesLate == 0)
    rig.pump.handle(.rank(.stopPosting(FetchID(1))), at: rig.now)
    rig.faulty.resumeHung(at: rig.now)
    rig.run(100)
    #expect(rig.pump.stats.counts.bytesLate == UInt64(4 * rig.world.target.blockBytes))
    #expect(rig.progress(1)?.isQuiet == true)
  }

  @Test func `one fetch's failure does not stop another's`() {
    var rig = Rig { $0.fetch == FetchID(1) ? .halfComplete : nil }
    rig.load(1, blocks: 8)
    rig.load(2, blocks: 8, at: 32)
    rig.run(100)
    #expect(rig.progress(1)?.landed == 0 && rig.progress(1)?.failure != nil)
    #expect(rig.progress(2)?.landed == 8 && rig.progress(2)?.failure == nil)
  }

  @Test func `digests prove the blocks before the first wrong one`() {
    var rig = Rig { $0.ordinal == 1 ? .corrupt : nil }
    rig.load(1, blocks: 12)
    rig.run(60)
    #expect(rig.faulty.applied[.corrupt] == 1)
    #expect(rig.progress(1)?.landed == 12)
    let expected = (0..<12).map { rig.world.expected(slot: $0) }
    rig.pump.handle(.rank(.checkDigests(FetchID(1), expected)), at: rig.now)
    rig.run(10)
    #expect(rig.progress(1)?.proved == 4)
  }

  @Test func `right bytes with a right digest under a wrong key are refused`() {
    var rig = Rig()
    rig.load(1, blocks: 4)
    rig.run(20)
    // Each block's own digest, granted under the name of the block after it.
    let expected = (0..<4).map { slot in
      ExpectedBlock(
        key: rig.world.key(slot + 1), digests: rig.world.expected(slot: slot).digests)
    }
    rig.pump.handle(.rank(.checkDigests(FetchID(1), expected)), at: rig.now)
    rig.run(3)
    #expect(rig.progress(1)?.proved == 0)
  }

  @Test func `a missing digest proves nothing`() {
    var rig = Rig()
    rig.load(1, blocks: 4)
    rig.run(20)
    rig.pump.handle(
      .rank(
        .checkDigests(
          FetchID(1),
          (0..<4).map { ExpectedBlock(key: rig.world.key($0), digests: [nil]) })), at: rig.now)
    rig.run(3)
    #expect(rig.progress(1)?.proved == 0)
  }

  @Test func `no more than the limit is posted to one source at a time`() {
    var rig = Rig(transferBlocks: 1) { _ in .slow }
    rig.load(1, blocks: 20)
    for _ in 0..<200 {
      rig.run(1)
      #expect(rig.pump.stats.counts.transfersInFlight <= Limits().transfersPostedMax)
    }
    rig.run(200)
    #expect(rig.progress(1)?.landed == 20)
  }

  @Test func `a stall is told by the pump's thread though nothing happens`() {
    let world = MemoryWorld()
    let bell = Doorbell()
    let pump = TransferPump(name: "test-pump", ringing: bell) {
      let memory = MemoryTransport(target: world.target, fabric: world.fabric)
      return PumpCore(
        target: world.target, peers: FaultyTransport(memory, target: world.target) { _ in .hang },
        rank: 0, limits: Limits())
    }
    pump.post(.attach(1, world.source, world.description))
    pump.post(
      .rank(
        .load(
          FetchID(1), from: world.source,
          moves: [BlockMove(target: BlockIndex(0), source: SlotIndex(0))],
          stall: .milliseconds(30))))
    let deadline = MonotonicClock.now() + .seconds(10)
    var report = PumpReport()
    while report.progress[FetchID(1)]?.stalledAt == nil, MonotonicClock.now() < deadline {
      bell.wait(until: deadline)
      report.merge(pump.takeReport())
    }
    #expect(report.progress[FetchID(1)]?.stalledAt != nil)
    #expect(MonotonicClock.now() < deadline, "the bell did not ring")
    pump.stop()
  }

  @Test func `fetches of one source take turns`() {
    var rig = Rig(transferBlocks: 1) { _ in .slow }
    rig.load(1, blocks: 20)
    rig.load(2, blocks: 20, at: 32)
    rig.run(1)
    let posted = rig.watcher.seen.filter { $0.moment == .posted }.map(\.transfer.fetch.value)
    #expect(posted == [1, 2, 1, 2])
  }

  @Test func `a stop keeps what is posted and posts nothing more`() {
    var rig = Rig { _ in .slow }
    rig.load(1, blocks: 32)
    rig.run(1)
    rig.pump.handle(.rank(.stopPosting(FetchID(1))), at: rig.now)
    rig.run(100)
    #expect(rig.progress(1)?.landed == 16)
    #expect(rig.progress(1)?.isStopped == true && rig.progress(1)?.isQuiet == true)
    // Told at the stop: whatever lands later is not counted.
    #expect(rig.report.loadErrors == (0..<32).map { BlockIndex($0) })
  }
}

import ContentDigest
import Foundation
import KVTransfer
import LocalStore
import RemoteG2Core
import Simulation
import Testing

/// A rank stages, a store copies, and nobody but the store writes its pool.
@Suite struct `Staging` {
  static let store = Incarnation(high: 5, low: 5)
  static let fingerprint = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")

  /// A pump over memory of its own, a store, and the leader's connection to it.
  final class Bench {
    let world = MemoryWorld()
    let memory: MemoryStore
    let pump: PumpCore
    let leader: MemoryLink
    private(set) var heard: [LocalMessage] = []
    var now = LocalInstant(nanoseconds: 1)
    var report = PumpReport()

    init(slots: Int = 8, stagingSlots: Int = 4, limits: Limits = Limits()) throws {
      memory = MemoryStore(
        incarnation: store, fingerprint: fingerprint, slotCount: slots,
        blockBytes: MemoryWorld.blockBytes, limits: limits)
      pump = PumpCore(
        target: world.target,
        peers: MemoryTransport(target: world.target, fabric: world.fabric), rank: 0,
        limits: limits)
      leader = MemoryLink(now: { LocalInstant(nanoseconds: 1) })
      leader.onMessage = { [weak self] message, _ in self?.heard.append(message) }
      let engine = Incarnation(high: 1, low: 1)
      #expect(memory.connect(leader))
      _ = leader.send(hello(engine, .leader))
      let rank = MemoryLink(now: { LocalInstant(nanoseconds: 1) })
      var welcomed: (MemoryStore.MemoryPool, BlockMemory)?
      rank.onMessage = { welcomed = $1 ?? welcomed }
      #expect(memory.connect(rank))
      _ = rank.send(hello(engine, .rank(0), stagingSlots))
      let (pool, staging) = try #require(welcomed)
      pump.handle(
        .attach(
          1, .local(store),
          .mapped(
            pool.memory.region, words: pool.words, link: MemoryStagingLink(rank, staging),
            owner: pool)), at: now)
      // Something to save: the pattern of the world's own pool.
      TransportConformanceFill.fill(world.target)
    }

    private func hello(
      _ engine: Incarnation, _ role: LocalHello.Role, _ slots: Int = 0
    ) -> LocalMessage {
      .hello(
        LocalHello(engine: engine, role: role, fingerprint: fingerprint, stagingSlots: slots))
    }

    func save(_ blocks: Range<Int>, store: Incarnation = Staging.store) {
      pump.handle(
        .rank(
          .stage(
            blocks.map { BlockSave(block: BlockIndex($0), key: world.key($0), store: store) })),
        at: now)
    }

    func commit(_ blocks: Range<Int>, digests: (Int) -> [Digest128]? = { _ in nil }) {
      _ = leader.send(
        .commit(
          blocks.map {
            CommittedBlock(
              key: world.key($0), parent: $0 > 0 ? world.key($0 - 1) : nil, digests: digests($0))
          }))
    }

    func run(_ turns: Int, each: Duration = .milliseconds(1)) {
      for _ in 0..<turns {
        now = now + each
        _ = pump.run(at: now)
        report.merge(pump.takeReport())
      }
    }

    var outcomes: [SaveOutcome.Kind] {
      heard.flatMap { message -> [SaveOutcome.Kind] in
        if case .saved(let outcomes) = message { outcomes.map(\.kind) } else { [] }
      }
    }

    /// Whether the pool's slot of a block holds its bytes, readable.
    func holds(_ block: Int) -> Bool {
      guard let slot = memory.ledger.pool.slot(holding: world.key(block)) else { return false }
      let pool = memory.pools[0]
      let generation = memory.ledger.pool.generation(of: slot)
      return pool.words.read(slot, generation) {}
        && zip(pool.memory.region.bytes(of: slot.index), world.target.bytes(of: block))
          .allSatisfy { $0 == $1 }
    }
  }

  enum TransportConformanceFill {
    static func fill(_ region: BlockRegion) {
      for block in 0..<region.blockCount {
        memset(region.pointer(to: block), Int32(block + 1), region.blockBytes)
      }
    }
  }

  @Test func `a block is sealed when it is staged and committed, in either order`() throws {
    let bench = try Bench()
    bench.save(0..<2)
    bench.run(3)
    #expect(bench.report.stagings.allSatisfy(\.isStaged) && bench.report.stagings.count == 2)
    #expect(bench.memory.ledger.stats.sealed == 0, "it was sealed before it was committed")
    bench.commit(0..<2)
    #expect(bench.outcomes == [.sealed, .sealed] && bench.holds(0) && bench.holds(1))
    bench.commit(2..<3)
    #expect(bench.memory.ledger.stats.sealed == 2, "it was sealed before it was staged")
    bench.save(2..<3)
    bench.run(3)
    #expect(bench.holds(2))
  }

  @Test func `what a rank writes after its staging was taken changes no sealed byte`() throws {
    let bench = try Bench(stagingSlots: 1)
    bench.save(0..<1)
    bench.run(2)
    bench.commit(0..<1)
    #expect(bench.holds(0))
    // The same staging slot, with another block's bytes.
    bench.save(1..<2)
    bench.run(3)
    #expect(bench.holds(0))
    bench.commit(1..<2)
    #expect(bench.holds(0) && bench.holds(1))
  }

  @Test func `a pulled block is sealed only with its source's digests`() throws {
    let bench = try Bench()
    bench.save(0..<2)
    bench.run(3)
    bench.commit(0..<2) { block in
      let bytes = bench.world.target.bytes(of: block)
      // The second's bytes are right, and its digest is that of another name.
      return [ContentDigest.of(bytes, key: bench.world.key(0), rank: 0)]
    }
    #expect(bench.outcomes == [.sealed, .wrongBytes])
    #expect(bench.holds(0) && bench.memory.ledger.stats.sealed == 1)
    #expect(bench.memory.ledger.stats.writing == 0)
  }

  @Test func `full staging memory holds a save up, and for no longer than its bound`() throws {
    let bench = try Bench(stagingSlots: 2)
    bench.save(0..<5)
    bench.run(5)
    #expect(bench.report.stagings.count == 2)
    bench.commit(0..<2)
    bench.run(5)
    #expect(bench.report.stagings.count == 4, "freed slots were not used")
    bench.run(3, each: .seconds(1))
    #expect(bench.report.stagings.map(\.isStaged) == [true, true, true, true, false])
    #expect(bench.pump.stats.counts.savesDropped == 1 && bench.pump.isIdle)
  }

  @Test func `a save for another store goes nowhere`() throws {
    let bench = try Bench()
    bench.save(0..<1, store: Incarnation(high: 6, low: 6))
    bench.run(2)
    #expect(bench.report.stagings.map(\.isStaged) == [false])
    #expect(bench.memory.desk.stagedCount == 0)
  }

  @Test func `what was staged ends with its connection, and a commit of it is answered`() throws {
    let bench = try Bench()
    bench.save(0..<1)
    bench.run(2)
    #expect(bench.memory.desk.stagedCount == 1)
    bench.pump.handle(.detach(.local(Self.store)), at: bench.now)
    bench.commit(0..<1)
    #expect(bench.memory.desk.stagedCount == 0 && bench.memory.ledger.stats.sealed == 0)
  }

  @Test func `a read of a slot that is written again fails, before, during and after its copy`()
    throws
  {
    let bench = try Bench()
    bench.save(0..<1)
    bench.run(2)
    bench.commit(0..<1)
    let (slot, pool) = (SlotIndex(0), bench.memory.pools[0])
    let generation = bench.memory.ledger.pool.generation(of: slot)
    #expect(pool.words.read(slot, generation) {})
    #expect(!pool.words.read(slot, generation &+ 1) {})
    // Written again in the middle of the copy.
    let copy = StageCopy(
      engine: Self.store, key: bench.world.key(7), slot: slot, generation: generation &+ 1,
      sources: [], expected: nil)
    let writer = PoolWriter.Pool(
      base: pool.memory.region.base, blockBytes: MemoryWorld.blockBytes, words: pool.words)
    #expect(!pool.words.read(slot, generation) { PoolWriter.begin(copy, [writer]) })
    #expect(!pool.words.read(slot, generation &+ 1) {}, "a slot being written was read")
    let bytes = [UInt8](repeating: 9, count: MemoryWorld.blockBytes)
    let digests = bytes.withUnsafeBytes {
      PoolWriter.finish(copy, from: [$0.baseAddress], [writer])
    }
    #expect(digests?.count == 1)
    #expect(pool.words.read(slot, generation &+ 1) {})
  }

  @Test func `a pool that nobody holds any more is mapped nowhere`() throws {
    func mappings() throws -> Int {
      // The kernel says that the file is empty: it is read to its end all the same.
      let file = try #require(FileHandle(forReadingAtPath: "/proc/self/maps"))
      let text = String(decoding: try file.readToEnd() ?? Data(), as: UTF8.self)
      return text.split(separator: "\n").count { $0.contains("remote-g2-pool") }
    }
    let before = try mappings()
    do {
      let pool = try PoolMemory(slotCount: 4, blockBytes: 4096, owner: Self.store)
      let mapping = try PoolMapping(
        pool.readOnlyDescriptor, slotCount: 4, blockBytes: 4096, owner: Self.store)
      let held = try mappings()
      #expect(held > before, "\(before) became \(held)")
      withExtendedLifetime((pool, mapping)) {}
    }
    #expect(try mappings() == before)
  }
}

import RemoteG2Core
import Testing

/// The scheduler half for engines that own their memory, as such engines call it.
@Suite struct `A staged scheduler` {
  static let engine = Incarnation(high: 8, low: 8)
  static let pool = SourceID.local(Incarnation(high: 2, low: 2))
  static let keys = (0..<6).map { BlockKey(high: UInt64($0), low: 4) }
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(milliseconds) * 1_000_000)
  }
  static func granted(_ count: Int) -> [GrantedBlock] {
    (0..<count).map { GrantedBlock(slot: SlotIndex($0 + 10), generation: 3, digests: []) }
  }

  /// One with its node attached.
  struct Bench {
    var core: StagedScheduler
    let id = RequestID(1)
    var sent: [ControlRequest] = []

    init(ranks: Int = 1, isAttached: Bool = true) {
      core = StagedScheduler(
        engine: engine, rankCount: ranks, blockBytes: 1 << 20, tokensPerBlock: 16,
        limits: Limits())
      if isAttached { core.heard(.announced(pool, []), at: at(0)) }
    }

    mutating func flush() { sent += core.takeRequests() }

    var fetch: FetchID? {
      for case .want(let fetch, _, _, _, _) in sent.reversed() { return fetch }
      return nil
    }
    var releases: Int { sent.count { if case .release = $0 { true } else { false } } }

    mutating func ask(_ id: RequestID? = nil, at now: Int = 1) {
      core.newRequest(id ?? self.id, keys: keys, at: A.at(now))
      flush()
    }

    mutating func grant(_ count: Int, at now: Int = 2) {
      let lease = LeaseID(serial: fetch!.value, owner: pool.incarnation, holder: engine)
      let grant = Grant(lease: lease, ttl: .seconds(9), blocks: granted(count))
      core.heard(.resolved(fetch!, .granted(grant), after: .zero), at: A.at(now))
    }

    /// A step in which one rank does all that it is told.
    mutating func step(
      failing: Bool = false, staging: [UInt32]? = nil, ranks: Int = 1, at now: Int = 10
    ) -> StagedPlan {
      let plan = core.plan(tokens: 16, at: A.at(now))
      let reports = (0..<ranks).map { rank in
        var report = StagedReport(step: plan.step, engine: plan.engine, rank: rank)
        report.loaded = plan.loads.map { .init(request: $0.request, isWhole: !failing) }
        report.staged = staging ?? plan.stages.indices.map { UInt32($0) }
        return report
      }
      core.absorb(reports, at: A.at(now))
      flush()
      return plan
    }
  }
  typealias A = `A staged scheduler`

  @Test func `asks once, waits for the node's word, and loads what it has`() {
    var bench = Bench()
    bench.ask()
    #expect(bench.sent.count == 1)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(1)) == .unknown)
    bench.core.heard(.pending(bench.fetch!), at: Self.at(2))
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(2)) == .pending)
    bench.grant(5)
    #expect(bench.core.match(bench.id, local: 2, most: 6, at: Self.at(3)) == .ready(blocks: 3))
    let targets = [7, 9, 8].map { BlockIndex($0) }
    #expect(bench.core.bind(bench.id, local: 2, targets: targets) == true)
    let plan = bench.step()
    #expect(plan.pool == Self.pool.incarnation)
    #expect(
      plan.loads == [
        StagedLoad(
          request: bench.id, pool: Self.pool.incarnation,
          moves: targets.enumerated().map {
            BlockMove(target: $1, source: SlotIndex(12 + $0), generation: 3)
          })
      ])
    #expect(bench.releases == 1, "the lease is given back once, when the copy is over")
    bench.core.finished(bench.id)
    bench.flush()
    #expect(bench.releases == 1 && bench.core.requestCount == 0)
    #expect(bench.sent.count == 2)
  }

  @Test func `answers for the prefix that the engine has now, which grows and shrinks`() {
    var bench = Bench()
    bench.ask()
    bench.grant(5)
    for (local, blocks) in [(2, 2), (0, 4), (3, 1)] {
      #expect(
        bench.core.match(bench.id, local: local, most: 4, at: Self.at(3)) == .ready(blocks: blocks))
    }
    #expect(bench.core.match(bench.id, local: 4, most: 4, at: Self.at(3)) == .none)
    #expect(bench.core.match(bench.id, local: 1, most: 4, at: Self.at(3)) == .ready(blocks: 3))
    #expect(bench.core.bind(bench.id, local: 3, targets: (0..<3).map { BlockIndex($0) }) == false)
  }

  @Test func `does not wait for a node that is away, or that has nothing`() {
    var away = Bench(isAttached: false)
    away.ask()
    #expect(away.sent.isEmpty)
    #expect(away.core.match(away.id, local: 0, most: 6, at: Self.at(1)) == .none)
    var empty = Bench()
    empty.ask()
    empty.core.heard(.resolved(empty.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    #expect(empty.core.match(empty.id, local: 0, most: 6, at: Self.at(2)) == .none)
    empty.core.finished(empty.id)
    empty.flush()
    #expect(empty.releases == 0, "nothing was granted")
  }

  @Test func `gives up a node that says nothing, and one that takes too long`() {
    var silent = Bench()
    silent.ask()
    #expect(silent.core.nextDeadline == Self.at(101))
    #expect(silent.core.match(silent.id, local: 0, most: 6, at: Self.at(100)) == .unknown)
    #expect(silent.core.match(silent.id, local: 0, most: 6, at: Self.at(101)) == .none)
    #expect(silent.core.match(silent.id, local: 0, most: 6, at: Self.at(102)) == .none)
    silent.flush()
    #expect(silent.releases == 1 && silent.core.counts.late == 1)
    // Six blocks of 16 tokens at 200 a second are 480 ms; a tenth and the node's 100 ms more.
    var slow = Bench()
    slow.ask()
    slow.core.heard(.pending(slow.fetch!), at: Self.at(2))
    #expect(slow.core.match(slow.id, local: 0, most: 6, at: Self.at(628)) == .pending)
    #expect(slow.core.match(slow.id, local: 0, most: 6, at: Self.at(629)) == .none)
    // What it is granted now is given back by the release that is on its way.
    slow.grant(6, at: 630)
    #expect(slow.core.match(slow.id, local: 0, most: 6, at: Self.at(631)) == .none)
  }

  @Test func `is not asked again about a load that failed`() {
    var bench = Bench()
    bench.ask()
    bench.grant(4)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .ready(blocks: 4))
    #expect(bench.core.bind(bench.id, local: 0, targets: (0..<4).map { BlockIndex($0) }) == true)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .none)
    _ = bench.step(failing: true)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(4)) == .none)
    #expect(bench.core.counts.loadsFailed == 1 && bench.sent.count == 2)
  }

  @Test func `asks once more after a preemption, and not a third time`() {
    var bench = Bench()
    bench.ask()
    bench.grant(2)
    func run() {
      bench.core.scheduled(
        bench.id, computed: 0, scheduled: 16, keys: [], blocks: (0..<6).map { BlockIndex($0) },
        isWhole: true)
    }
    run()
    _ = bench.step()
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(20)) == .unknown)
    bench.flush()
    #expect(bench.sent.count { if case .want = $0 { true } else { false } } == 2)
    bench.grant(3, at: 21)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(21)) == .ready(blocks: 3))
    run()
    _ = bench.step()
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(40)) == .none)
  }

  @Test func `stages what a step completes, and commits it when every rank has`() {
    var bench = Bench(ranks: 2)
    bench.ask()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    let blocks = (20..<26).map { BlockIndex($0) }
    bench.core.scheduled(
      bench.id, computed: 0, scheduled: 40, keys: [], blocks: blocks, isWhole: true)
    let plan = bench.step(ranks: 2)
    #expect(
      plan.stages == [0, 1].map { StageOrder(block: blocks[$0], key: Self.keys[$0]) })
    #expect(
      bench.sent.suffix(2) == [
        .commit(
          Self.pool,
          [
            CommittedBlock(key: Self.keys[0], parent: nil, step: plan.step),
            CommittedBlock(key: Self.keys[1], parent: Self.keys[0], step: plan.step),
          ]), .settled(Self.pool, step: plan.step),
      ])
    // Eight tokens more complete the third block; nothing is staged twice.
    bench.core.scheduled(
      bench.id, computed: 40, scheduled: 8, keys: [], blocks: [], isWhole: false)
    #expect(bench.step(ranks: 2).stages.map(\.block) == [blocks[2]])
  }

  @Test
  func `stages nothing that the node has, and everything that it lacks of what the engine has`() {
    var bench = Bench()
    bench.ask()
    bench.grant(4)
    // The engine found five blocks in its own cache, and computes the sixth.
    bench.core.scheduled(
      bench.id, computed: 80, scheduled: 16, keys: [],
      blocks: (20..<26).map { BlockIndex($0) }, isWhole: true)
    #expect(bench.step().stages.map(\.key) == Array(Self.keys[4...]))
  }

  @Test func `commits nothing of a step in which a load failed, and stages it in a later one`() {
    var bench = Bench()
    bench.ask()
    bench.grant(2)
    #expect(bench.core.bind(bench.id, local: 0, targets: [BlockIndex(0), BlockIndex(1)]) == true)
    let other = RequestID(2)
    bench.core.newRequest(other, keys: Self.keys, at: Self.at(2))
    bench.flush()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    let blocks = (30..<36).map { BlockIndex($0) }
    bench.core.scheduled(
      other, computed: 0, scheduled: 32, keys: [], blocks: blocks, isWhole: true)
    let plan = bench.step(failing: true)
    #expect(plan.stages.count == 2)
    #expect(bench.sent.last == .settled(Self.pool, step: plan.step))
    #expect(!bench.sent.contains { if case .commit = $0 { true } else { false } })
    bench.core.scheduled(
      other, computed: 32, scheduled: 1, keys: [], blocks: [], isWhole: false)
    #expect(bench.step().stages.map(\.block) == Array(blocks[..<2]))
  }

  @Test func `settles a step with what only some ranks have staged`() {
    var bench = Bench(ranks: 2)
    bench.ask()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    bench.core.scheduled(
      bench.id, computed: 0, scheduled: 32, keys: [],
      blocks: (0..<6).map { BlockIndex($0) }, isWhole: true)
    let plan = bench.core.plan(tokens: 32, at: Self.at(3))
    var reports = (0..<2).map { StagedReport(step: plan.step, engine: plan.engine, rank: $0) }
    reports[0].staged = [0, 1]
    reports[1].staged = [0]
    bench.core.absorb(reports, at: Self.at(4))
    bench.flush()
    #expect(
      bench.sent.suffix(2) == [
        .commit(Self.pool, [CommittedBlock(key: Self.keys[0], parent: nil, step: plan.step)]),
        .settled(Self.pool, step: plan.step),
      ])
  }

  @Test
  func `settles all earlier steps with a node that comes back, and stages their blocks again`() {
    var bench = Bench()
    bench.ask()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    let blocks = (0..<6).map { BlockIndex($0) }
    bench.core.scheduled(
      bench.id, computed: 0, scheduled: 16, keys: [], blocks: blocks, isWhole: true)
    let plan = bench.core.plan(tokens: 16, at: Self.at(3))
    // The scheduler half's connection is lost, and found again, while the rank's goes on.
    bench.core.heard(.sourceDied(Self.pool), at: Self.at(4))
    bench.core.heard(.announced(Self.pool, []), at: Self.at(4))
    bench.flush()
    #expect(bench.sent.last == .settled(Self.pool, step: plan.step))
    var report = StagedReport(step: plan.step, engine: plan.engine, rank: 0)
    report.staged = [0]
    bench.core.absorb([report], at: Self.at(5))
    bench.flush()
    #expect(!bench.sent.contains { if case .commit = $0 { true } else { false } })
    #expect(bench.core.counts.stagesDropped == 1)
    bench.core.scheduled(
      bench.id, computed: 16, scheduled: 1, keys: [], blocks: [], isWhole: false)
    #expect(bench.step().stages.map(\.block) == [blocks[0]])
  }

  @Test func `commits to no other pool than that which was staged for`() {
    var bench = Bench()
    bench.ask()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    bench.core.scheduled(
      bench.id, computed: 0, scheduled: 16, keys: [],
      blocks: (0..<6).map { BlockIndex($0) }, isWhole: true)
    let plan = bench.core.plan(tokens: 16, at: Self.at(3))
    bench.core.heard(.sourceDied(Self.pool), at: Self.at(4))
    bench.core.heard(.announced(.local(Incarnation(high: 3, low: 3)), []), at: Self.at(4))
    var report = StagedReport(step: plan.step, engine: plan.engine, rank: 0)
    report.staged = [0]
    bench.core.absorb([report], at: Self.at(5))
    bench.flush()
    #expect(!bench.sent.contains { if case .commit = $0 { true } else { false } })
  }

  @Test func `answers none as soon as its node is gone, and asks its successor`() {
    var bench = Bench()
    bench.ask()
    bench.core.heard(.pending(bench.fetch!), at: Self.at(2))
    bench.core.heard(.sourceDied(Self.pool), at: Self.at(3))
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .none)
    #expect(bench.core.nextDeadline == nil && !bench.core.isAttached)
    let successor = SourceID.local(Incarnation(high: 3, low: 3))
    bench.core.heard(.announced(successor, []), at: Self.at(4))
    bench.ask(RequestID(2), at: 5)
    guard case .want(_, let source, _, _, _)? = bench.sent.last else {
      Issue.record("\(bench.sent)")
      return
    }
    #expect(source == successor)
  }

  @Test func `orders a load that fails when the node dies between the answer and the blocks`() {
    var bench = Bench()
    bench.ask()
    bench.grant(3)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .ready(blocks: 3))
    bench.core.heard(.sourceDied(Self.pool), at: Self.at(3))
    let targets = (4..<7).map { BlockIndex($0) }
    #expect(bench.core.bind(bench.id, local: 0, targets: targets) == true)
    let plan = bench.step(failing: true)
    #expect(plan.loads.first?.moves.map(\.target) == targets)
    // No pool has that name, and no slot that was written has generation 0.
    #expect(plan.loads.first?.pool == Incarnation(high: 0, low: 0))
    #expect(plan.loads.first?.moves.allSatisfy { $0.generation == 0 } == true)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(4)) == .none)
  }

  @Test func `gives back what an aborted request had, whatever state it was in`() {
    for step in 0..<4 {
      var bench = Bench()
      bench.ask()
      if step > 0 { bench.core.heard(.pending(bench.fetch!), at: Self.at(2)) }
      if step > 1 { bench.grant(3) }
      if step > 2 {
        #expect(bench.core.bind(bench.id, local: 0, targets: [BlockIndex(1)]) == true)
        let plan = bench.core.plan(tokens: 0, at: Self.at(3))
        bench.core.finished(bench.id)
        // Its copy is over when it has gone already.
        var report = StagedReport(step: plan.step, engine: plan.engine, rank: 0)
        report.loaded = [.init(request: bench.id, isWhole: true)]
        bench.core.absorb([report], at: Self.at(4))
      }
      bench.core.finished(bench.id)
      bench.flush()
      #expect(bench.releases == 1 && bench.core.requestCount == 0, "step \(step)")
    }
  }
}

@Suite struct `Plans and reports of a staged step` {
  @Test func `come out as they went in, and broken ones are refused`() {
    var plan = StagedPlan(step: 7, engine: Incarnation(high: 1, low: 2), pool: nil)
    plan.loads = [
      StagedLoad(
        request: RequestID(3), pool: Incarnation(high: 4, low: 4),
        moves: [BlockMove(target: BlockIndex(1), source: SlotIndex(2), generation: 3)])
    ]
    plan.stages = [StageOrder(block: BlockIndex(5), key: BlockKey(high: 6, low: 7))]
    var report = StagedReport(step: 7, engine: Incarnation(high: 5, low: 6), rank: 2)
    report.loaded = [.init(request: RequestID(3), isWhole: false)]
    report.staged = [0, 4]
    #expect(Self.result(StagedCodec.encode(plan), StagedCodec.plan) == .success(plan))
    #expect(Self.result(StagedCodec.encode(report), StagedCodec.report) == .success(report))
    #expect(
      Self.result(StagedCodec.encode(report), StagedCodec.plan) != .success(plan))
    for length in 0..<StagedCodec.encode(plan).count {
      let cut = Array(StagedCodec.encode(plan).prefix(length))
      #expect(Self.result(cut, StagedCodec.plan) == .failure(.truncated))
    }
  }

  static func result<Value>(
    _ bytes: [UInt8], _ read: (UnsafeRawBufferPointer) throws(WireError) -> Value
  ) -> Result<Value, WireError> {
    bytes.withUnsafeBytes { raw in
      do throws(WireError) { return .success(try read(raw)) } catch { return .failure(error) }
    }
  }
}

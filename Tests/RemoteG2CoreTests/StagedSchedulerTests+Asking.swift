import RemoteG2Core
import Testing

/// What it looks up before it asks its node.
extension `A staged scheduler` {
  @Test func `does not ask for what nobody has, until somebody has it`() {
    var bench = Bench()
    bench.core.newRequest(bench.id, keys: Self.keys, at: Self.at(1)) { $0 != Self.keys[0] }
    bench.flush()
    let answer = bench.core.match(bench.id, local: 0, most: 6, at: Self.at(1)) {
      $0 != Self.keys[0]
    }
    #expect(answer == .none)
    #expect(bench.sent.isEmpty && bench.core.nextDeadline == nil && bench.core.pendingCount == 0)
    // Another engine has computed it while this request waited for its turn.
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(2)) == .unknown)
    bench.flush()
    #expect(bench.sent.count == 1 && bench.core.nextDeadline == Self.at(102))
    bench.grant(4, at: 3)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .ready(blocks: 4))
    #expect(bench.core.counts.asked == 1 && bench.core.counts.none == 0)
  }

  @Test func `waits for a silent node's first word in one step only`() {
    var bench = Bench()
    bench.ask()
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(1)) == .unknown)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(1)) == .unknown)
    _ = bench.step()
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(2)) == .pending)
    bench.grant(4, at: 3)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .ready(blocks: 4))
  }

  @Test func `asks after a preemption what it could not ask before, because its node was away`() {
    var bench = Bench(isAttached: false)
    bench.ask()
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(1)) == .none)
    bench.core.heard(.announced(Self.pool, []), at: Self.at(2))
    // In the same attempt it is computed without its node.
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(2)) == .none)
    bench.core.scheduled(
      bench.id, computed: 0, scheduled: 16, keys: [], blocks: (0..<6).map { BlockIndex($0) },
      isWhole: true)
    #expect(bench.core.match(bench.id, local: 0, most: 6, at: Self.at(3)) == .unknown)
    bench.flush()
    #expect(bench.sent.count == 1)
  }

  @Test func `says which requests it wants to hear of in their next step`() {
    var bench = Bench()
    bench.ask()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    func scheduled(_ computed: Int, _ count: Int, keys: [BlockKey] = []) -> Bool {
      bench.core.scheduled(
        bench.id, computed: computed, scheduled: count, keys: keys,
        blocks: computed == 0 ? (20..<29).map { BlockIndex($0) } : [], isWhole: computed == 0)
    }
    // Half of its prompt; the rest, of which a rank stages one block; a token more.
    #expect(scheduled(0, 48))
    _ = bench.step()
    #expect(scheduled(48, 48))
    _ = bench.step(staging: [0])
    #expect(scheduled(96, 1))
    _ = bench.step()
    #expect(!scheduled(97, 1))
    // A block's hash comes before its last token is computed.
    let next = BlockKey(high: 99, low: 4)
    #expect(scheduled(110, 1, keys: [next]))
    #expect(bench.step().stages.isEmpty)
    #expect(scheduled(111, 1))
    #expect(bench.step().stages.map(\.key) == [next])
    #expect(!scheduled(112, 1))
    let isWanted = bench.core.scheduled(
      RequestID(44), computed: 0, scheduled: 1, keys: [], blocks: [], isWhole: true)
    #expect(!isWanted)
  }

  @Test
  func `counts what nobody had when it is computed, once in an attempt and two attempts at most`() {
    var bench = Bench()
    func run() {
      bench.core.scheduled(
        bench.id, computed: 0, scheduled: 16, keys: [], blocks: (0..<6).map { BlockIndex($0) },
        isWhole: true)
    }
    func match(_ isKnown: Bool) -> StagedMatch {
      bench.core.match(bench.id, local: 0, most: 6, at: Self.at(1)) { _ in isKnown }
    }
    bench.core.newRequest(bench.id, keys: Self.keys, at: Self.at(1)) { _ in false }
    run()
    run()
    #expect(bench.core.counts.asked == 1 && bench.core.counts.none == 1)
    // Preempted.
    #expect(match(false) == .none)
    run()
    #expect(bench.core.counts.asked == 2 && bench.core.counts.none == 2)
    #expect(match(true) == .none)
    bench.flush()
    #expect(bench.sent.isEmpty)
  }

  @Test func `takes no report of a plan that another scheduler half made`() {
    var bench = Bench()
    bench.ask()
    bench.core.heard(.resolved(bench.fetch!, .refused(.gone), after: .zero), at: Self.at(2))
    bench.core.scheduled(
      bench.id, computed: 0, scheduled: 96, keys: [], blocks: (0..<6).map { BlockIndex($0) },
      isWhole: true)
    let plan = bench.core.plan(tokens: 96, at: Self.at(3))
    bench.flush()
    let sent = bench.sent.count
    var report = StagedReport(step: plan.step, engine: Incarnation(high: 7, low: 7), rank: 0)
    report.staged = plan.stages.indices.map { UInt32($0) }
    bench.core.absorb([report], at: Self.at(4))
    bench.flush()
    #expect(bench.sent.count == sent)
    report.engine = plan.engine
    bench.core.absorb([report], at: Self.at(5))
    bench.flush()
    #expect(bench.core.counts.blocksCommitted == 6)
  }
}

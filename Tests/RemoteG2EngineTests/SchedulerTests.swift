import Collectives
import KVConnector
import KVLayout
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import Testing

/// An engine whose connector says what the test wants, and whose model writes down what it computes.
final class StepBench {
  final class Model: ForwardPass {
    let toy: ToyModel
    /// Of each step: how many tokens of which prompt (its first token) from which position.
    var steps: [[Span]] = []
    struct Span: Equatable, CustomStringConvertible {
      let position: Int
      let count: Int
      let wantsLogits: Bool
      var description: String { "\(count) from \(position)\(wantsLogits ? ", sampled" : "")" }
    }
    init() throws { toy = try ToyModel() }
    var layout: BlockLayout { toy.layout }
    var contextLength: Int { 64 }
    var vocabularySize: Int { toy.vocabularySize }
    var endTokens: Set<Int32> = []
    func forward(_ spans: [SequenceSpan], pool: UnsafeMutableRawPointer) -> [[Float]] {
      steps.append(
        spans.map {
          Span(position: $0.position, count: $0.tokens.count, wantsLogits: $0.wantsLogits)
        })
      return toy.forward(spans, pool: pool)
    }
  }

  final class Connector: SchedulerConnector {
    var matches: [RequestID: RemoteMatch] = [:]
    var sealed: [[SealedBlock]] = []
    var holds: [BlockIndex] = []
    var askedFor: [Int] = []
    var unsaved: [UnsavedBlock] = []
    var calls: [String] = []
    func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch {
      matches[request.id] ?? .none
    }
    func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {
      calls.append("bind \(request.value) to \(blocks.count)")
    }
    func bindRefused(_ request: RequestID, at now: LocalInstant) {
      calls.append("no blocks for \(request.value)")
    }
    func plan(at now: LocalInstant) -> [RankOrder] { [] }
    func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome {
      ConnectorOutcome()
    }
    func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex] {
      sealed.append(blocks)
      return holds
    }
    func unsaved(atMost most: Int, at now: LocalInstant) -> [UnsavedBlock] {
      askedFor.append(most)
      defer { unsaved = [] }
      return unsaved
    }
    func abort(_ request: RequestID, at now: LocalInstant) {
      calls.append("abort \(request.value)")
    }
    func finish(_ request: RequestID) { calls.append("finish \(request.value)") }
  }

  final class Worker: WorkerConnector {
    private(set) var sequences: [UInt64] = []
    func begin(_ orders: [RankOrder]) {}
    func end(rank: Int, sequence: UInt64) -> RankReport {
      sequences.append(sequence)
      return RankReport(rank: rank, sequence: sequence)
    }
  }

  let model: Model
  let connector = Connector()
  let worker = Worker()
  let clock = ToyClock()
  let memory: BlockMemory
  let engine: Engine<SoloStepChannel<StepPlan, RankReport>>
  private(set) var results: [RequestID: RequestResult] = [:]

  /// - Parameter blocks: Of four tokens each.
  init(blocks: Int = 64, _ change: (inout Limits.Values) -> Void = { _ in }) throws {
    model = try Model()
    memory = BlockMemory(blockBytes: model.layout.blockBytes, blockCount: blocks)
    let clock = clock
    engine = try Engine(
      model: model, memory: memory.region.base, blockCount: blocks,
      chain: KeyChain(
        scope: KeyScope(modelDigest: "toy", layoutDigest: "toy", numerics: "t"), tokensPerBlock: 4,
        hash: ToyWorld.hash),
      channel: SoloStepChannel(), worker: worker, connector: connector, policy: .recompute,
      limits: Limits(change), clock: { clock.now })
  }

  func submit(_ id: Int, tokens: Int, generate: Int = 1) throws {
    try engine.submit(
      RequestSpec(
        id: RequestID(UInt64(id)), prompt: (0..<tokens).map { Int32(($0 * 7 + id * 13) % 90) },
        generateMax: generate))
  }

  /// - Returns: What the last step computed; empty when it computed nothing.
  @discardableResult
  func step(_ count: Int = 1, each: Duration = .milliseconds(1)) -> [Model.Span] {
    for _ in 0..<count {
      let before = model.steps.count
      clock.now = clock.now + each
      _ = engine.step()
      if model.steps.count == before { model.steps.append([]) }
      for result in engine.takeFinished() { results[result.id] = result }
    }
    return model.steps.last ?? []
  }

  static func span(_ count: Int, from position: Int, sampled: Bool = false) -> Model.Span {
    Model.Span(position: position, count: count, wantsLogits: sampled)
  }
}

/// What a step computes.
@Suite struct `A step's tokens` {
  typealias Bench = StepBench

  @Test func `go to those that decode, then to prompts that fit a step, then to long ones`() throws
  {
    let bench = try Bench { $0.stepTokensMax = 8 }
    try bench.submit(1, tokens: 3, generate: 9)
    #expect(bench.step() == [Bench.span(3, from: 0, sampled: true)])
    try bench.submit(2, tokens: 20)
    try bench.submit(3, tokens: 5)
    #expect(
      bench.step() == [
        Bench.span(1, from: 3, sampled: true), Bench.span(5, from: 0, sampled: true),
        Bench.span(2, from: 0),
      ])
    #expect(bench.step() == [Bench.span(1, from: 4, sampled: true), Bench.span(7, from: 2)])
    #expect(bench.results[RequestID(3)]?.generated.count == 1)
    #expect(bench.results[RequestID(3)]?.account.computedPromptTokens == 5)
  }

  @Test func `are as many as a step may have, and a prompt of just so many fits`() throws {
    let bench = try Bench { $0.stepTokensMax = 8 }
    try bench.submit(1, tokens: 9)
    try bench.submit(2, tokens: 8)
    // The second fits a step, and goes before the first.
    #expect(bench.step() == [Bench.span(8, from: 0, sampled: true)])
    #expect(bench.step() == [Bench.span(8, from: 0)])
    #expect(bench.step() == [Bench.span(1, from: 8, sampled: true)])
    #expect(bench.step() == [] && !bench.engine.hasRequests)
  }

  @Test func `go to a prompt that was overtaken as often as may be, before all others`() throws {
    let bench = try Bench {
      $0.stepTokensMax = 8
      $0.overtakenStepsMax = 2
    }
    try bench.submit(1, tokens: 20)
    for id in 2..<9 { try bench.submit(id, tokens: 8) }
    var positions: [String] = []
    for _ in 0..<9 { positions.append(bench.step().description) }
    let other = "[8 from 0, sampled]"
    #expect(
      positions == [
        other, other, "[8 from 0]", other, other, "[8 from 8]",
        // What is left of it fits a step by now, and it came first.
        "[4 from 16, sampled, 4 from 0]", "[4 from 4, sampled, 4 from 0]",
        "[4 from 4, sampled, 4 from 0]",
      ])
  }

  @Test func `of long prompts are few while another request looks for its prefix`() throws {
    let bench = try Bench {
      $0.stepTokensMax = 16
      $0.stepTokensBesideLoads = 3
    }
    bench.connector.matches[RequestID(9)] = .undecided
    try bench.submit(9, tokens: 8)
    try bench.submit(1, tokens: 20)
    try bench.submit(2, tokens: 20)
    try bench.submit(3, tokens: 3)
    #expect(
      bench.step() == [Bench.span(3, from: 0), Bench.span(3, from: 0, sampled: true)]
        || bench.model.steps.last == [
          Bench.span(3, from: 0, sampled: true), Bench.span(3, from: 0),
        ])
    #expect(bench.step() == [Bench.span(3, from: 3)], "the two share three tokens")
    bench.connector.matches[RequestID(9)] = nil
    #expect(bench.step() == [Bench.span(8, from: 0, sampled: true), Bench.span(8, from: 6)])
  }

  @Test func `of the last to come are given up when blocks are short`() throws {
    // Four blocks of four tokens.
    let bench = try Bench(blocks: 4)
    try bench.submit(1, tokens: 7, generate: 4)
    try bench.submit(2, tokens: 8, generate: 2)
    #expect(bench.step().count == 2)
    // Both need a third block as soon as they have sampled: the second gives its own up in each of the three
    // steps that the first still takes.
    for _ in 0..<12 { bench.step() }
    let (first, second) = (bench.results[RequestID(1)], bench.results[RequestID(2)])
    #expect(first?.account.preemptions == 0 && first?.generated.count == 4)
    #expect(second?.account.preemptions == 3 && second?.generated.count == 2)
    #expect(bench.engine.poolCounts.held == 0)
    let alone = try Bench(blocks: 4)
    try alone.submit(2, tokens: 8, generate: 2)
    alone.step(4)
    #expect(second?.generated == alone.results[RequestID(2)]?.generated)
  }

  @Test func `come with plans that are numbered one after the other`() throws {
    let bench = try Bench()
    bench.step(3)
    bench.engine.end()
    #expect(bench.worker.sequences == [1, 2, 3, 4])
  }

  @Test func `are told to whoever observes the forward pass, and to nobody when there are none`()
    throws
  {
    let bench = try Bench { $0.stepTokensMax = 8 }
    var told: [Int] = []
    bench.engine.onForward = { tokens, _ in told.append(tokens) }
    try bench.submit(1, tokens: 13)
    bench.step(4)
    #expect(told == [8, 5])
  }
}

/// Who is served at all, and what of it is saved.
@Suite struct `Requests of an engine` {
  typealias Bench = StepBench

  @Test func `are refused just beyond what is possible`() throws {
    // A context of 64 tokens, a vocabulary of 97, 16 blocks of 4 tokens.
    let bench = try Bench(blocks: 16) { $0.requestsMax = 3 }
    func refusal(_ prompt: [Int32], _ generate: Int) -> RequestError? {
      do throws(RequestError) {
        try bench.engine.submit(
          RequestSpec(id: RequestID(9), prompt: prompt, generateMax: generate))
        return nil
      } catch { return error }
    }
    #expect(refusal([], 1) == .emptyPrompt)
    #expect(refusal([1], 0) == .generation(tokens: 0))
    #expect(refusal([1], 65) == .generation(tokens: 65))
    #expect(refusal([1], 64) == .promptTooLong(tokens: 65, max: 64))
    #expect(refusal([97], 1) == .token(97, vocabularySize: 97))
    #expect(refusal([3, -1], 1) == .token(-1, vocabularySize: 97))
    #expect(refusal([96, 0], 62) == nil, "64 tokens in 16 blocks")
    #expect(refusal([1], 1) == .duplicate(RequestID(9)))
    try bench.submit(1, tokens: 1)
    try bench.submit(2, tokens: 1)
    #expect(refusal([1], 1) == .tooManyRequests(max: 3))
    let small = try Bench(blocks: 15)
    #expect(throws: RequestError.needsTooManyBlocks(needed: 16, pool: 15)) {
      try small.submit(1, tokens: 61)
    }
    try small.submit(1, tokens: 59)
  }

  @Test func `that are cancelled leave at once, and give everything back`() throws {
    let bench = try Bench()
    try bench.submit(1, tokens: 9, generate: 9)
    bench.step(2)
    bench.engine.cancel(RequestID(2))
    bench.engine.cancel(RequestID(1))
    #expect(bench.connector.calls == ["abort 1", "finish 1"])
    #expect(!bench.engine.hasRequests && bench.engine.poolCounts.held == 0)
    bench.step()
    #expect(bench.results[RequestID(1)]?.generated.count == 2)
  }

  @Test func `have their full blocks sealed and offered once, each after the one before it`() throws
  {
    let bench = try Bench()
    try bench.submit(1, tokens: 10, generate: 4)
    bench.step()
    #expect(bench.connector.sealed.map { $0.map(\.block.index) } == [[0, 1]])
    let first = bench.connector.sealed[0]
    #expect(first[0].parent == nil && first[1].parent == first[0].key && first[1].digests == nil)
    bench.step(4)
    // Twelve tokens have KV when the third is sampled.
    #expect(bench.connector.sealed.map(\.count) == [2, 1])
    #expect(bench.connector.sealed[1][0].parent == first[1].key)
    #expect(bench.engine.poolCounts.cached == 3)
    // Found by the next one, they are offered once more.
    try bench.submit(2, tokens: 1)
    try bench.engine.submit(
      RequestSpec(
        id: RequestID(3), prompt: (0..<10).map { Int32(($0 * 7 + 13) % 90) }, generateMax: 1))
    bench.step(2)
    #expect(bench.connector.sealed.map(\.count) == [2, 1, 2])
    #expect(bench.results[RequestID(3)]?.account.cachedTokens == 8)
    #expect(bench.results[RequestID(3)]?.account.computedPromptTokens == 2)
  }

  @Test func `leave half of the pool to each other when blocks are offered again`() throws {
    let bench = try Bench(blocks: 10)
    try bench.submit(1, tokens: 9, generate: 1)
    bench.step()
    // All ten are free or cached, and five are left to requests.
    #expect(bench.connector.askedFor == [5])
    let known = try #require(bench.connector.sealed.first?.first)
    bench.connector.unsaved = [
      UnsavedBlock(key: known.key, parent: nil),
      UnsavedBlock(key: BlockKey(high: 5, low: 5), parent: known.key),
    ]
    bench.connector.holds = [known.block]
    bench.step()
    #expect(bench.connector.sealed.last?.map(\.key) == [known.key], "the other is not here")
    #expect(bench.engine.poolCounts.held == 1, "what is being saved is held")
    bench.connector.holds = []
    bench.step()
    #expect(bench.connector.askedFor.last == 4)
    try bench.submit(2, tokens: 17, generate: 1)
    bench.connector.matches[RequestID(2)] = .available(blocks: 4)
    bench.step()
    #expect(bench.connector.calls.contains("bind 2 to 4"))
    #expect(bench.connector.askedFor.count == 3, "five are held: there is none to spare")
  }

  @Test func `that cannot have blocks for a load compute`() throws {
    let bench = try Bench(blocks: 4)
    try bench.submit(1, tokens: 8, generate: 4)
    bench.step()
    bench.connector.matches[RequestID(2)] = .available(blocks: 3)
    try bench.submit(2, tokens: 13, generate: 1)
    bench.step()
    #expect(bench.connector.calls.contains("no blocks for 2"))
    bench.connector.matches = [:]
    bench.step(12)
    #expect(bench.results[RequestID(2)]?.generated.count == 1)
  }
}

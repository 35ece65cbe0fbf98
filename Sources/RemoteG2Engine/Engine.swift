public import Collectives
internal import ContentDigest
public import KVConnector
internal import KVLayout
public import RemoteG2Core

/// The step loop's parts on one rank, without its thread: plan, broadcast, forward, gather, absorb.
public final class Engine<Channel: StepChannel>
where Channel.Plan == StepPlan, Channel.Report == RankReport {
  private let model: any ForwardPass
  private let channel: Channel
  private let parts: RankStep
  private let connector: any SchedulerConnector
  private var coordinator: GroupCoordinator
  let scheduler: Scheduler
  private let clock: () -> LocalInstant
  private var sequence: UInt64 = 0
  /// Told how long each step's forward took: `(tokens, duration)`.
  public var onForward: (Int, Duration) -> Void = { _, _ in }

  /// - Parameters:
  ///   - memory: G1: `blockCount` blocks of the model's layout, kept by the caller.
  ///   - clock: Read a few times a step.
  public init(
    model: any ForwardPass, memory: UnsafeMutableRawPointer, blockCount: Int, chain: KeyChain,
    channel: Channel, worker: any WorkerConnector, connector: any SchedulerConnector,
    policy: LoadFailurePolicy, limits: Limits, clock: @escaping () -> LocalInstant
  ) throws(GroupCoordinator.Invalid) {
    precondition(channel.rank == 0, "the engine leads; other ranks run a RankLoop")
    self.model = model
    self.channel = channel
    parts = RankStep(model: model, memory: memory, worker: worker, clock: clock)
    self.connector = connector
    self.clock = clock
    coordinator = try GroupCoordinator(
      rankCount: channel.rankCount, workerRanks: Set(0..<channel.rankCount), policy: policy)
    scheduler = Scheduler(
      blockCount: blockCount, tokensPerBlock: model.layout.tokensPerBlock, chain: chain,
      connector: connector, limits: limits)
  }

  // MARK: Requests

  public func submit(_ spec: RequestSpec) throws(RequestError) {
    try scheduler.submit(
      spec, contextLength: model.contextLength, vocabularySize: model.vocabularySize, at: clock())
  }

  public func cancel(_ id: RequestID) { scheduler.cancel(id, at: clock()) }

  /// Forgets every cached prefix that no request holds.
  public func dropCache() { scheduler.pool.dropCached() }

  /// Offers every cached block of a prompt to the store again. Returns how many were accepted.
  public func saveAgain(prompt: [Int32]) -> Int {
    let keys = scheduler.chain.keys(of: prompt)
    let blocks = scheduler.pool.match(keys, most: keys.count)
    let accepted = connector.sealed(
      blocks.indices.map {
        SealedBlock(
          block: blocks[$0], key: keys[$0], parent: $0 > 0 ? keys[$0 - 1] : nil,
          digests: scheduler.pool.digests(of: blocks[$0]))
      }, at: clock())
    for block in accepted { scheduler.pool.hold(block) }
    return accepted.count
  }

  // MARK: The step

  /// Runs one step.
  ///
  /// - Returns: true when it computed something, so that the next step should follow at once.
  public func step() -> Bool {
    let startedAt = clock()
    scheduler.admit(at: startedAt)
    let chosen = scheduler.choose(at: startedAt)
    let digested = chosen.filter(mayEndWithDigest)
    let plan = channel.broadcast(
      StepPlan(
        sequence: nextSequence(), orders: connector.plan(at: startedAt), spans: chosen.map(span),
        digests: digested.map(digestOrder)))
    let (logits, report) = parts.run(plan, rank: 0) { forward in
      let before = clock()
      let logits = forward()
      onForward(plan.spans.reduce(0) { $0 + $1.tokens.count }, clock() - before)
      return logits
    }
    let reports = channel.gather(report)
    precondition(
      reports.allSatisfy { $0.sequence == plan.sequence }, "a report answers another plan")
    for (index, request) in digested.enumerated() {
      request.kvDigest = RankStep.combine(reports.map { $0.kvDigests[index] })
    }
    let now = clock()
    apply(logits, to: chosen, startedAt: startedAt, at: now)
    coordinator.absorb(reports, connector: connector, engine: scheduler, at: now)
    scheduler.offerUnsaved(at: now)
    return !plan.spans.isEmpty
  }

  /// The last step: tells every rank that the group ends. Nothing may follow it.
  public func end() {
    let plan = channel.broadcast(
      StepPlan(
        sequence: nextSequence(), orders: connector.plan(at: clock()), spans: [], isLast: true))
    let (_, report) = parts.run(plan, rank: 0) { $0() }
    _ = channel.gather(report)
  }

  private func nextSequence() -> UInt64 {
    sequence += 1
    return sequence
  }

  /// It is sampled in this step, and what is sampled may be its last token.
  private func mayEndWithDigest(_ request: RunningRequest) -> Bool {
    request.spec.wantsDigests && request.computed + request.planned == request.tokens.count
      && (!request.spec.ignoresEnd || request.generated.count + 1 >= request.spec.generateMax)
  }

  private func digestOrder(_ request: RunningRequest) -> KVDigestOrder {
    KVDigestOrder(
      blocks: request.blocks.map(\.value), tokens: request.computed + request.planned)
  }

  private func span(of request: RunningRequest) -> SequenceSpan {
    let end = request.computed + request.planned
    return SequenceSpan(
      tokens: Array(request.tokens[request.computed..<end]), position: request.computed,
      blocks: request.blocks.map(\.value), wantsLogits: end == request.tokens.count)
  }

  private func apply(
    _ logits: [[Float]], to chosen: [RunningRequest], startedAt: LocalInstant, at now: LocalInstant
  ) {
    var next = logits.makeIterator()
    for request in chosen {
      if request.account.settledAt != nil, request.account.firstRecomputeAt == nil,
        request.computed < request.spec.prompt.count
      {
        request.account.firstRecomputeAt = startedAt
      }
      request.account.stepDurations.append(now - startedAt)
      let isSampled = request.computed + request.planned == request.tokens.count
      var sampled: Int32?
      if isSampled {
        guard let row = next.next() else { preconditionFailure("logits for every sampled request") }
        sampled = Self.greedy(row)
        if request.spec.wantsDigests {
          row.withUnsafeBytes { request.logitsDigest.add($0) }
        }
        if request.account.firstTokenAt == nil { request.account.firstTokenAt = now }
      }
      scheduler.advanced(request, sampled: sampled)
    }
    scheduler.sealFullBlocks(at: now)
    for request in chosen where request.phase == .running {
      guard let last = request.generated.last else { continue }
      let isAtEnd = model.endTokens.contains(last) && !request.spec.ignoresEnd
      if isAtEnd || request.generated.count >= request.spec.generateMax {
        request.account.endedAt = now
        scheduler.leave(request, error: nil)
      }
    }
  }

  /// The largest logit; the first of equals.
  static func greedy(_ logits: [Float]) -> Int32 {
    var best = 0
    for index in logits.indices where logits[index] > logits[best] { best = index }
    return Int32(best)
  }

  // MARK: Results and queries

  /// Requests that ended since the last call.
  public func takeFinished() -> [RequestResult] {
    let taken = scheduler.finished
    scheduler.finished = []
    return taken.map { request, error in
      RequestResult(
        id: request.spec.id, generated: Array(request.generated), error: error,
        account: request.account,
        logitsDigest: request.spec.wantsDigests ? request.logitsDigest.value() : nil,
        kvDigest: request.kvDigest)
    }
  }

  /// The blocks in requests' tables: of those that compute or load, and of those that left while
  /// their load was open.
  package var tables: [[BlockIndex]] {
    scheduler.requests.map(\.blocks) + scheduler.leaving.values.map(\.blocks)
  }
  /// The blocks of the longest cached prefix of these.
  package func cached(_ keys: [BlockKey]) -> [BlockIndex] {
    scheduler.pool.match(keys, most: keys.count)
  }
  package func holds(of block: BlockIndex) -> Int { scheduler.pool.holds(of: block) }

  public var hasRequests: Bool { !scheduler.requests.isEmpty || !scheduler.leaving.isEmpty }
  public var poolCounts: (free: Int, cached: Int, held: Int) {
    (scheduler.pool.freeCount, scheduler.pool.cachedCount, scheduler.pool.heldCount)
  }
}

public import Collectives
internal import ContentDigest
public import KVConnector
internal import KVLayout
public import RemoteG2Core

/// The step loop's parts on one rank, without its thread: plan, broadcast, forward, gather, absorb.
public final class Engine<Channel: StepChannel>
where Channel.Plan == StepPlan, Channel.Report == RankReport {
  private let model: any ForwardPass
  private let memory: UnsafeMutableRawPointer
  private let channel: Channel
  private let worker: any WorkerConnector
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
    self.model = model
    self.memory = memory
    self.channel = channel
    self.worker = worker
    self.connector = connector
    self.clock = clock
    coordinator = try GroupCoordinator(
      rankCount: channel.rankCount, wiredRanks: Set(0..<channel.rankCount), policy: policy)
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
      zip(blocks, keys).map { SealedBlock(block: $0, key: $1) }, at: clock())
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
    sequence += 1
    let plan = channel.broadcast(
      StepPlan(
        sequence: sequence, orders: connector.plan(at: startedAt),
        spans: chosen.map(span)))
    worker.begin(plan.orders)
    let tokens = plan.spans.reduce(0) { $0 + $1.tokens.count }
    var logits: [[Float]] = []
    if tokens > 0 {
      let before = clock()
      logits = model.forward(plan.spans, pool: memory)
      onForward(tokens, clock() - before)
    }
    var report = worker.end(rank: channel.rank, sequence: plan.sequence)
    report.loadErrors += worker.takeLoadErrors()
    let reports = channel.gather(report)
    precondition(
      reports.allSatisfy { $0.sequence == plan.sequence }, "a report answers another plan")
    let now = clock()
    apply(logits, to: chosen, startedAt: startedAt, at: now)
    coordinator.absorb(reports, connector: connector, engine: scheduler, at: now)
    return tokens > 0
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
        request.kvDigest = request.spec.wantsDigests ? kvDigest(of: request) : nil
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

  private func kvDigest(of request: RunningRequest) -> Digest128 {
    let layout = model.layout
    var digest = StreamingDigest()
    for (position, block) in request.blocks.enumerated() {
      let tokens = min(layout.tokensPerBlock, request.computed - position * layout.tokensPerBlock)
      guard tokens > 0 else { break }
      let base = memory + block.index * layout.blockBytes
      for extent in layout.extents(ofFirst: tokens) {
        digest.add(UnsafeRawBufferPointer(start: base + extent.offset, count: extent.count))
      }
    }
    return digest.value()
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
  package func holds(of block: BlockIndex) -> Int { scheduler.pool.holds(of: block) }

  public var hasRequests: Bool { !scheduler.requests.isEmpty || !scheduler.leaving.isEmpty }
  public var poolCounts: (free: Int, cached: Int, held: Int) {
    (scheduler.pool.freeCount, scheduler.pool.cachedCount, scheduler.pool.heldCount)
  }
}

/// How much of a request's prefix the node has ready.
public enum StagedMatch: Equatable, Sendable {
  /// The node has not said anything yet. It is worth waiting some microseconds for, in the first step that asks.
  case unknown
  /// Nothing more to load: compute.
  case none
  /// It is being fetched: ask again in a later step.
  case pending
  /// This many blocks can be loaded, following those that the engine has.
  case ready(blocks: Int)
}

/// The scheduler half for an engine that owns its memory itself: it asks the node, orders loads and stages, and
/// commits what every rank has staged.
///
/// Pure. What it has to say to the node gathers in ``takeRequests()``; what the node says comes to
/// ``heard(_:at:)``. A request is asked about once in a scheduling attempt: when it has been answered none, has
/// failed or has waited too long, it is computed. A preemption begins a new attempt, and there are at most two.
public struct StagedScheduler: Sendable {
  enum State: Sendable {
    /// The node was away, or there is nothing to ask about.
    case unasked
    /// Nobody had its first block when it was last looked up.
    case unheld
    case asked(at: LocalInstant, deadline: LocalInstant, isPending: Bool)
    case ready([GrantedBlock])
    /// Ranks that have still to report.
    case loading(ranksLeft: Int, isWhole: Bool)
    /// Nothing more is loaded in this attempt.
    case over
  }

  struct Request: Sendable {
    var keys: [BlockKey]
    var blocks: [BlockIndex] = []
    var state = State.unasked
    var fetch: FetchID
    var lease: LeaseID?
    /// The pool that it was asked of.
    var source: SourceID?
    var attempts = 1
    /// Whether it has been given to a step since it was last asked about.
    var hasRun = false
    /// The step in which it was first matched since it was last asked about.
    var matchedIn: UInt64?
    /// Blocks before it are in the pool, or have been ordered to be staged.
    var cursor = 0
  }

  public let engine: Incarnation
  let limits: Limits
  let rankCount: Int
  let tokensPerBlock: Int
  let stagesPerStep: Int
  var requests: [RequestID: Request] = [:]
  var byFetch: [FetchID: RequestID] = [:]
  /// Of the node's pool that is attached; nil while the node is away.
  var source: SourceID?
  var outgoing: [ControlRequest] = []
  var loads: [StagedLoad] = []
  /// What the steps before ordered to be staged, until all ranks have reported.
  var ordered: [UInt64: (source: SourceID, stages: [Stage])] = [:]
  var stepNext: UInt64 = 1
  var fetchNext: UInt64 = 1
  var estimator = Estimator()
  var stepBegan: (at: LocalInstant, tokens: Int)?
  /// What happened so far, by name.
  public internal(set) var counts = StagedCounts()

  struct Stage: Sendable {
    let request: RequestID
    let position: Int
    let order: StageOrder
    let parent: BlockKey?
  }

  public init(
    engine: Incarnation, rankCount: Int, blockBytes: Int, tokensPerBlock: Int, limits: Limits
  ) {
    self.engine = engine
    self.limits = limits
    self.rankCount = rankCount
    self.tokensPerBlock = tokensPerBlock
    stagesPerStep = max(1, min(limits.stagingSlotsMax, limits.stepStageBytesMax / blockBytes))
  }

  /// What is to be said to the node.
  public mutating func takeRequests() -> [ControlRequest] {
    let taken = outgoing
    outgoing = []
    return taken
  }

  // MARK: Requests

  /// A request arrived: its prefix is looked for from now on.
  ///
  /// - Parameters:
  ///   - keys: Of its whole blocks.
  ///   - mayBeKnown: Whether asking the node for a key may be worth it.
  public mutating func newRequest(
    _ id: RequestID, keys: [BlockKey], at now: LocalInstant,
    mayBeKnown: (BlockKey) -> Bool = { _ in true }
  ) {
    // One that comes twice is the engine's to tell apart.
    guard requests[id] == nil else { return }
    requests[id] = Request(keys: keys, fetch: FetchID(0))
    ask(id, at: now, mayBeKnown)
  }

  private mutating func ask(
    _ id: RequestID, at now: LocalInstant, _ mayBeKnown: (BlockKey) -> Bool
  ) {
    guard let place = requests.index(forKey: id) else { return }
    requests.values[place].hasRun = false
    requests.values[place].matchedIn = nil
    guard let source, let first = requests.values[place].keys.first else {
      requests.values[place].state = .unasked
      return
    }
    // Without its first block none of the others can be used.
    guard mayBeKnown(first) else {
      requests.values[place].state = .unheld
      return
    }
    let fetch = FetchID(fetchNext)
    fetchNext += 1
    let lease = LeaseID(serial: fetch.value, owner: source.incarnation, holder: engine)
    var keys = requests.values[place].keys
    if keys.count > limits.blocksPerFetchMax {
      keys = Array(keys.prefix(limits.blocksPerFetchMax))
    }
    let pace = estimator.recomputeTime(tokens: tokensPerBlock)
    let patience = min(limits.hardDeadline, pace * keys.count * (1 + limits.regretMax))
    requests.values[place].fetch = fetch
    requests.values[place].lease = lease
    requests.values[place].source = source
    // The node's own deadline comes first, where the node is well.
    requests.values[place].state = .asked(
      at: now, deadline: now + patience + limits.ownAnswerMax, isPending: false)
    byFetch[fetch] = id
    counts.asked += 1
    outgoing.append(.want(fetch, source, lease, keys: keys, pace: pace))
  }

  /// How much can be loaded beyond the engine's own prefix, which may grow and shrink from call to call.
  ///
  /// - Parameters:
  ///   - local: Leading blocks that the engine has.
  ///   - most: Blocks that may be loaded in all: the last token is always computed.
  ///   - mayBeKnown: Whether asking the node for a key may be worth it.
  public mutating func match(
    _ id: RequestID, local: Int, most: Int, at now: LocalInstant,
    mayBeKnown: (BlockKey) -> Bool = { _ in true }
  ) -> StagedMatch {
    guard let place = requests.index(forKey: id) else { return .none }
    switch requests.values[place].state {
    case .over where isWorthAsking(again: place), .unheld where isWorthAsking(again: place):
      // It was preempted: what it has computed may be in the pool by now.
      requests.values[place].attempts += 1
      ask(id, at: now, mayBeKnown)
    // Somebody may have computed it while it waited for its turn.
    case .unheld where !requests.values[place].hasRun: ask(id, at: now, mayBeKnown)
    default: break
    }
    switch requests.values[place].state {
    case .unasked, .unheld, .over, .loading: return .none
    case .asked(let at, let deadline, let isPending):
      if now >= deadline || (!isPending && now - at >= limits.ownAnswerMax) {
        counts.late += 1
        giveUp(id)
        return .none
      }
      let first = requests.values[place].matchedIn ?? stepNext
      requests.values[place].matchedIn = first
      // A node that has said nothing by the next step is slow: no other step waits for it.
      return isPending || first < stepNext ? .pending : .unknown
    case .ready(let blocks):
      let count = min(blocks.count, most) - local
      return count > 0 ? .ready(blocks: count) : .none
    }
  }

  private func isWorthAsking(again place: [RequestID: Request].Index) -> Bool {
    requests.values[place].hasRun && requests.values[place].attempts < 2
  }

  /// The engine has scheduled the request, with blocks for what it was told could be loaded.
  ///
  /// - Parameters:
  ///   - local: Leading blocks that it has already.
  ///   - targets: Where the next ones are to be loaded; empty: it computes them.
  /// - Returns: False for more blocks than were ready: nothing is loaded.
  public mutating func bind(_ id: RequestID, local: Int, targets: [BlockIndex]) -> Bool {
    guard let request = requests[id] else { return targets.isEmpty }
    guard case .ready(let blocks) = request.state, let source = request.source, !targets.isEmpty
    else {
      // The engine says once more, with nothing to load, that a loaded request goes on.
      if case .loading = request.state { return targets.isEmpty }
      giveUp(id)
      if !targets.isEmpty { loadNothing(id, into: targets) }
      return true
    }
    guard local >= 0, local + targets.count <= blocks.count else { return false }
    let moves = targets.enumerated().map { place, target in
      BlockMove(
        target: target, source: blocks[local + place].slot,
        generation: blocks[local + place].generation)
    }
    requests[id]?.state = .loading(ranksLeft: rankCount, isWhole: true)
    loads.append(StagedLoad(request: id, pool: source.incarnation, moves: moves))
    counts.blocksBound += UInt64(targets.count)
    return true
  }

  /// The engine waits for a load that cannot be: every rank reports that it failed.
  private mutating func loadNothing(_ id: RequestID, into targets: [BlockIndex]) {
    requests[id]?.state = .loading(ranksLeft: rankCount, isWhole: true)
    loads.append(
      StagedLoad(
        request: id, pool: Incarnation(high: 0, low: 0),
        moves: targets.map { BlockMove(target: $0, source: SlotIndex(0)) }))
  }

  /// It has left the engine, however it ended. Unknown requests are ignored.
  public mutating func finished(_ id: RequestID) {
    giveUp(id)
    guard requests.removeValue(forKey: id) != nil else { return }
    // A load of it that no plan has told yet is told to no rank.
    loads.removeAll { $0.request == id }
  }

  /// Ends its attempt: what was asked is answered by nobody any more.
  mutating func giveUp(_ id: RequestID) {
    guard let place = requests.index(forKey: id) else { return }
    byFetch[requests.values[place].fetch] = nil
    if let lease = requests.values[place].lease, let source = requests.values[place].source {
      outgoing.append(.release(source, lease))
    }
    requests.values[place].lease = nil
    requests.values[place].state = .over
  }

  // MARK: A step

  /// A request is computed in the step that is being planned.
  ///
  /// - Parameters:
  ///   - computed: Tokens that have their KV before the step.
  ///   - scheduled: Tokens that get it in the step.
  ///   - keys: Of all its whole blocks by now.
  ///   - blocks: All its blocks, or those that are new.
  ///   - isWhole: Whether `blocks` are all of them.
  /// - Returns: Whether more of what was told of it may be to be staged: its next step is to be told even if there is
  ///   nothing new about it.
  @discardableResult
  public mutating func scheduled(
    _ id: RequestID, computed: Int, scheduled: Int, keys: [BlockKey], blocks: [BlockIndex],
    isWhole: Bool
  ) -> Bool {
    guard let place = requests.index(forKey: id) else { return false }
    switch requests.values[place].state {
    case .unheld where !requests.values[place].hasRun:
      counts.asked += 1
      counts.none += 1
    case .asked, .ready, .unasked: giveUp(id)
    default: break
    }
    // In place: whoever held on to a request while it grows would have its keys copied.
    requests.values[place].hasRun = true
    requests.values[place].keys += keys
    if isWhole {
      requests.values[place].blocks = blocks
    } else {
      requests.values[place].blocks += blocks
    }
    let known = min(requests.values[place].keys.count, requests.values[place].blocks.count)
    stage(id, at: place, through: min((computed + scheduled) / tokensPerBlock, known))
    // What is ordered may have to be ordered again.
    return requests.values[place].cursor < requests.values[place].keys.count
      || ordered.values.contains { $0.stages.contains { $0.request == id } }
  }

  /// Orders what is final after this step, and not in the pool, to be staged.
  private mutating func stage(
    _ id: RequestID, at place: [RequestID: Request].Index, through end: Int
  ) {
    let cursor = requests.values[place].cursor
    guard let source, cursor < end else { return }
    // The node may have been replaced since the step was begun: it stages for one pool.
    if let begun = ordered[stepNext], begun.source != source { return }
    let room = stagesPerStep - (ordered[stepNext]?.stages.count ?? 0)
    let last = min(end, cursor + max(0, room))
    guard cursor < last else { return }
    let (keys, blocks) = (requests.values[place].keys, requests.values[place].blocks)
    let stages = (cursor..<last).map { position in
      Stage(
        request: id, position: position,
        order: StageOrder(block: blocks[position], key: keys[position]),
        parent: position > 0 ? keys[position - 1] : nil)
    }
    ordered[stepNext, default: (source, [])].stages += stages
    requests.values[place].cursor = last
  }

  /// What every rank does in this step.
  ///
  /// - Parameter tokens: Computed in it, over all requests.
  public mutating func plan(tokens: Int, at now: LocalInstant) -> StagedPlan {
    let begun = ordered[stepNext]
    var plan = StagedPlan(
      step: stepNext, engine: engine, pool: (begun?.source ?? source)?.incarnation)
    plan.loads = loads
    plan.stages = begun?.stages.map(\.order) ?? []
    loads = []
    stepNext += 1
    stepBegan = tokens > 0 ? (now, tokens) : nil
    return plan
  }

  /// Whether the engine has to step though it computes nothing.
  public var hasOrders: Bool { !loads.isEmpty }

  /// All ranks have carried a plan out, which ordered something.
  ///
  /// - Parameter reports: Of one step, one of each rank.
  public mutating func absorb(_ reports: [StagedReport], at now: LocalInstant) {
    precondition(reports.count == rankCount, "\(reports.count) reports of \(rankCount) ranks")
    // The engine's cache was reset while the step was under way: the plan was another scheduler half's.
    guard let step = reports.first?.step, reports.allSatisfy({ $0.engine == engine }) else {
      return
    }
    if let began = stepBegan {
      estimator.prefilled(tokens: began.tokens, in: now - began.at)
      stepBegan = nil
    }
    var hasErrors = false
    for report in reports {
      for loaded in report.loaded {
        hasErrors = hasErrors || !loaded.isWhole
        noteLoaded(loaded)
      }
    }
    guard let begun = ordered.removeValue(forKey: step), begun.source == source else { return }
    settle(begun.stages, for: begun.source, reports, hasErrors: hasErrors)
  }

  private mutating func noteLoaded(_ loaded: StagedReport.LoadedRequest) {
    // It left meanwhile; its lease has been given back, and its pages were the engine's until now.
    guard case .loading(let left, let isWhole)? = requests[loaded.request]?.state else { return }
    let allWhole = isWhole && loaded.isWhole
    guard left == 1 else {
      requests[loaded.request]?.state = .loading(ranksLeft: left - 1, isWhole: allWhole)
      return
    }
    if allWhole { counts.loads += 1 } else { counts.loadsFailed += 1 }
    giveUp(loaded.request)
  }

  /// Commits what every rank has staged; from a step with a load error, nothing.
  private mutating func settle(
    _ stages: [Stage], for source: SourceID, _ reports: [StagedReport], hasErrors: Bool
  ) {
    var stagedBy = [Int](repeating: 0, count: stages.count)
    for report in reports {
      for place in report.staged where Int(place) < stages.count { stagedBy[Int(place)] += 1 }
    }
    guard let step = reports.first?.step, !stages.isEmpty else { return }
    var commits: [CommittedBlock] = []
    for (place, stage) in stages.enumerated() {
      if stagedBy[place] == rankCount, !hasErrors {
        commits.append(CommittedBlock(key: stage.order.key, parent: stage.parent, step: step))
      } else {
        drop(stage)
      }
    }
    counts.blocksCommitted += UInt64(commits.count)
    if !commits.isEmpty { outgoing.append(.commit(source, commits)) }
    outgoing.append(.settled(source, step: step))
  }

  /// It is not committed. While its request runs it may be staged in a later step.
  mutating func drop(_ stage: Stage) {
    counts.stagesDropped += 1
    guard let cursor = requests[stage.request]?.cursor, cursor > stage.position else { return }
    requests[stage.request]?.cursor = stage.position
  }
}

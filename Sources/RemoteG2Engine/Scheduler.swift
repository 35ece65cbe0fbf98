import KVConnector
import RemoteG2Core

/// Decides what each step computes: continuous batching, chunked prefill. Who has little left to compute
/// goes before a long prompt, which is overtaken in a bounded number of steps in a row; among equals, first
/// come first served.
/// Rank 0 only. Never waits: a request whose prefix is on its way is simply not in the plan yet.
final class Scheduler {
  let limits: Limits
  let tokensPerBlock: Int
  let chain: KeyChain
  let connector: any SchedulerConnector
  var pool: PrefixPool
  /// In order of arrival, which is also their priority.
  var requests: [RunningRequest] = []
  /// Requests that left while their load was open: only their blocks are still here.
  var leaving: [RequestID: RunningRequest] = [:]
  /// Since when nothing could be computed for want of blocks.
  private var starvedSince: LocalInstant?
  private var lastChoiceAt: LocalInstant?
  var finished: [(request: RunningRequest, error: RequestError?)] = []

  init(
    blockCount: Int, tokensPerBlock: Int, chain: KeyChain, connector: any SchedulerConnector,
    limits: Limits
  ) {
    pool = PrefixPool(blockCount: blockCount)
    self.tokensPerBlock = tokensPerBlock
    self.chain = chain
    self.connector = connector
    self.limits = limits
  }

  // MARK: Requests

  func submit(_ spec: RequestSpec, contextLength: Int, vocabularySize: Int, at now: LocalInstant)
    throws(RequestError)
  {
    guard !spec.prompt.isEmpty else { throw .emptyPrompt }
    guard spec.generateMax >= 1, spec.generateMax <= contextLength else {
      throw .generation(tokens: spec.generateMax)
    }
    let total = spec.prompt.count + spec.generateMax
    let most = min(contextLength, limits.promptTokensMax)
    guard total <= most else { throw .promptTooLong(tokens: total, max: most) }
    for token in spec.prompt where token < 0 || Int(token) >= vocabularySize {
      throw .token(token, vocabularySize: vocabularySize)
    }
    let needed = (total + tokensPerBlock - 1) / tokensPerBlock
    guard needed <= pool.blockCount else {
      throw .needsTooManyBlocks(needed: needed, pool: pool.blockCount)
    }
    guard requests.count < limits.requestsMax else {
      throw .tooManyRequests(max: limits.requestsMax)
    }
    guard !requests.contains(where: { $0.spec.id == spec.id }), leaving[spec.id] == nil else {
      throw .duplicate(spec.id)
    }
    let request = RunningRequest(spec: spec, at: now)
    chain.extend(&request.keys, covering: request.tokens)
    requests.append(request)
  }

  /// The client is gone. Unknown ids are ignored: the request may have just finished.
  func cancel(_ id: RequestID, at now: LocalInstant) {
    guard let request = requests.first(where: { $0.spec.id == id }) else { return }
    if request.phase == .loading {
      leaving[id] = request
      requests.removeAll { $0 === request }
    }
    connector.abort(id, at: now)
    if request.phase != .loading { leave(request, error: nil) }
  }

  // MARK: Admission

  /// Moves waiting requests on: into a load, into the running set, or nowhere yet.
  func admit(at now: LocalInstant) {
    for request in requests where request.phase == .waiting {
      let isFresh = request.blocks.isEmpty
      let most = (request.tokens.count - 1) / tokensPerBlock
      let found = isFresh ? pool.match(request.keys, most: most) : []
      let computed = isFresh ? found.count : request.computed / tokensPerBlock
      let view = RequestView(
        id: request.spec.id, keys: request.keys, blocksMax: most, hint: request.spec.hint)
      switch connector.match(view, computed: computed, at: now) {
      case .undecided: continue
      case .none:
        takePrefix(found, of: request, at: now)
        request.phase = .running
      case .available(let count):
        let have = max(0, request.blocks.count - computed)
        // The found prefix is held first, so that making room cannot evict it.
        takePrefix(found, of: request, at: now)
        guard let fresh = pool.allocate(max(0, count - have)) else {
          connector.bindRefused(request.spec.id, at: now)
          request.phase = .running
          continue
        }
        request.blocks += fresh
        request.phase = .loading
        request.boundEnd = computed + count
        connector.bind(
          request.spec.id, to: Array(request.blocks[computed..<computed + count]), at: now)
      }
    }
  }

  private func takePrefix(_ found: [BlockIndex], of request: RunningRequest, at now: LocalInstant) {
    guard !found.isEmpty else { return }
    for block in found { pool.hold(block) }
    request.blocks = found
    request.sealedBlocks = found.count
    request.computed = found.count * tokensPerBlock
    request.account.cachedTokens += request.computed
    // What is used here and the store lacks is worth saving, whenever it was computed.
    guard !request.hasOfferedFound else { return }
    request.hasOfferedFound = true
    offer(found.indices.map { sealedBlock(request, $0) }, at: now)
  }

  /// A block of the request that has its name, with all that is known of it.
  func sealedBlock(_ request: RunningRequest, _ position: Int) -> SealedBlock {
    SealedBlock(
      block: request.blocks[position], key: request.keys[position],
      parent: position > 0 ? request.keys[position - 1] : nil,
      digests: pool.digests(of: request.blocks[position]))
  }

  // MARK: Planning

  /// Chooses this step's tokens: every decoding request first, then prompts that were overtaken too often,
  /// then prompts with at most `stepTokensMax` tokens left, then longer ones; among equals in order of
  /// arrival. While any request waits or loads, prompts with more than `stepTokensBesideLoads` tokens left
  /// share that many tokens, so that the step is short.
  func choose(at now: LocalInstant) -> [RunningRequest] {
    for request in requests { request.planned = 0 }
    let isBesideLoads = requests.contains { $0.phase != .running }
    var budget = limits.stepTokensMax
    var longBudget =
      isBesideLoads ? min(budget, limits.stepTokensBesideLoads) : budget
    var chosen: [RunningRequest] = []
    let running = requests.filter { $0.phase == .running }
    let prompts = running.filter { $0.remaining > 1 }
    let overtaken = prompts.filter { $0.overtakenSteps >= limits.overtakenStepsMax }
    let short = prompts.filter {
      $0.remaining <= limits.stepTokensMax && $0.overtakenSteps < limits.overtakenStepsMax
    }
    let long = prompts.filter {
      $0.remaining > limits.stepTokensMax && $0.overtakenSteps < limits.overtakenStepsMax
    }
    for request in running.filter({ $0.remaining == 1 }) + overtaken + short + long {
      guard budget > 0, request.phase == .running else { continue }
      let isLong = request.remaining > limits.stepTokensBesideLoads
      let count = min(request.remaining, isLong ? min(budget, longBudget) : budget)
      guard count > 0, cover(request, tokens: request.computed + count) else { continue }
      request.planned = count
      budget -= count
      if isLong { longBudget -= count }
      chosen.append(request)
    }
    noteOvertaken(running)
    // A later request's need may have preempted an earlier choice.
    chosen = chosen.filter { $0.phase == .running }
    endStarved(chosen, at: now)
    return chosen
  }

  /// Counts the steps in a row in which a prompt got nothing though one that came after it got something.
  private func noteOvertaken(_ running: [RunningRequest]) {
    var someoneLater = false
    for request in running.reversed() {
      if request.planned > 0 {
        request.overtakenSteps = 0
        someoneLater = someoneLater || request.remaining > 1
      } else if someoneLater, request.phase == .running {
        request.overtakenSteps += 1
      }
    }
  }

  /// Ends the first request when nothing could be computed for `hardDeadline` though nothing is
  /// loading: what it needs is in quarantine, and a silent peer may keep it there for ever.
  private func endStarved(_ chosen: [RunningRequest], at now: LocalInstant) {
    defer { lastChoiceAt = now }
    // While this process was stopped no block could come free: after a long gap the wait begins anew.
    if let last = lastChoiceAt, now - last > limits.hardDeadline / 10 { starvedSince = nil }
    let isStarving =
      chosen.isEmpty && !requests.isEmpty
      && !requests.contains { $0.phase == .loading } && pool.availableCount < pool.blockCount
      && requests.contains { $0.account.preemptions > 0 }
    guard isStarving else {
      starvedSince = nil
      return
    }
    let since = starvedSince ?? now
    starvedSince = since
    guard now - since >= limits.hardDeadline, let first = requests.first else { return }
    starvedSince = nil
    let needed = (first.tokens.count + tokensPerBlock) / tokensPerBlock
    leave(first, error: .starved(needed: needed, available: pool.availableCount))
  }

  /// Gives a request the blocks for its first `tokens` tokens, preempting lower priorities.
  private func cover(_ request: RunningRequest, tokens: Int) -> Bool {
    let needed = (tokens + tokensPerBlock - 1) / tokensPerBlock
    while request.blocks.count < needed {
      if let block = pool.allocate() {
        request.blocks.append(block)
        continue
      }
      // Lowest priority = last to arrive. Loading requests keep their blocks: those are being written.
      // The one that asks counts too, so that a newcomer never takes from those before it.
      guard
        let victim = requests.last(where: {
          $0.phase == .running && (!$0.blocks.isEmpty || $0 === request)
        })
      else { return false }
      preempt(victim)
      if victim === request { return false }
    }
    return true
  }

  /// Takes everything from a request. It keeps its place and is recomputed.
  func preempt(_ request: RunningRequest) {
    // Tail first, so that the head of a chain is the last to be evicted.
    for block in request.blocks.reversed() { pool.release(block) }
    request.blocks = []
    request.computed = 0
    request.sealedBlocks = 0
    request.planned = 0
    request.phase = .waiting
    request.account.preemptions += 1
  }

  // MARK: After a step

  /// One request's planned tokens have their KV. Appends the sampled token, if there was one.
  func advanced(_ request: RunningRequest, sampled: Int32?) {
    let promptComputed = min(request.computed + request.planned, request.spec.prompt.count)
    request.account.computedPromptTokens += max(0, promptComputed - request.computed)
    request.computed += request.planned
    request.planned = 0
    if let sampled {
      request.tokens.append(sampled)
      chain.extend(&request.keys, covering: request.tokens)
    }
  }

  /// Names every block that became full, and offers it for saving.
  func sealFullBlocks(at now: LocalInstant) {
    var sealed: [SealedBlock] = []
    for request in requests where request.phase == .running {
      while (request.sealedBlocks + 1) * tokensPerBlock <= request.computed {
        let position = request.sealedBlocks
        if pool.seal(request.blocks[position], as: request.keys[position]) {
          sealed.append(sealedBlock(request, position))
        }
        request.sealedBlocks += 1
      }
    }
    offer(sealed, at: now)
  }

  func offer(_ sealed: [SealedBlock], at now: LocalInstant) {
    guard !sealed.isEmpty else { return }
    for block in connector.sealed(sealed, at: now) { pool.hold(block) }
  }

  /// Offers again what the store lacked when it was used, as far as it is still here. What is being saved is
  /// held: half of the pool is left to requests, and all of it while one waits for blocks.
  func offerUnsaved(at now: LocalInstant) {
    let most = pool.availableCount - pool.blockCount / 2
    guard most > 0, starvedSince == nil else { return }
    let wanted = connector.unsaved(atMost: most, at: now)
    guard !wanted.isEmpty else { return }
    offer(
      wanted.compactMap { wanted in
        pool.block(of: wanted.key).map {
          SealedBlock(
            block: $0, key: wanted.key, parent: wanted.parent, digests: pool.digests(of: $0))
        }
      }, at: now)
  }

  /// Takes a request out. Its blocks go back to the pool, sealed ones as cache.
  func leave(_ request: RunningRequest, error: RequestError?) {
    requests.removeAll { $0 === request }
    // Tail first, so that the head of a chain is the last to be evicted.
    for block in request.blocks.reversed() { pool.release(block) }
    request.blocks = []
    end(request, error: error)
  }

  /// Its blocks have been given back.
  func end(_ request: RunningRequest, error: RequestError?) {
    request.account.reasons += connector.reasons(of: request.spec.id)
    connector.finish(request.spec.id)
    finished.append((request, error))
  }
}

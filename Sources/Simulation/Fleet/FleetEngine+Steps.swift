import KVTransfer
import LocalStore
import RemoteG2Core

/// A step, in two events: what is copied in is half there between them.
extension FleetEngine {
  private var tokensPerBlock: Int { FleetWorld.tokensPerBlock }

  func beginStep() {
    hear()
    world.checkPatience(self)
    admit()
    var computes: [(request: RequestID, first: Int, end: Int)] = []
    for id in requests.keys.sorted() { schedule(id, &computes) }
    let tokens = computes.reduce(0) { $0 + ($1.end - $1.first) * tokensPerBlock }
    let plan = scheduler.plan(tokens: tokens, at: now)
    flush()
    var step = Step(plan: plan)
    step.computes = computes
    for rank in ranks.indices {
      attach(rank, plan)
      step.halves.append(beginLoads(rank))
    }
    inStep = step
    // A long prompt beside it takes its time.
    let most: Duration = world.chance.happens(0.3) ? .milliseconds(25) : .milliseconds(3)
    let time = world.chance.duration(.microseconds(100)...most)
    world.plan(after: time) { [weak self] in
      guard let self else { return }
      whenRunning { [weak self] in
        guard let self, isAlive else { return }
        endStep()
      }
    }
  }

  // MARK: Scheduling

  private func admit() {
    for id in requests.keys.sorted() where requests[id]?.state == .waiting {
      guard let keys = requests[id]?.keys else { continue }
      var own = cached(keys)
      // What it has shrinks from one look to the next, and grows again.
      if world.chance.happens(0.2) { own = Array(own.prefix(world.chance.below(own.count + 1))) }
      if world.chance.happens(0.2) {
        _ = scheduler.match(
          id, local: world.chance.below(keys.count), most: keys.count, at: now,
          mayBeKnown: mayBeKnown)
      }
      switch scheduler.match(
        id, local: own.count, most: keys.count, at: now, mayBeKnown: mayBeKnown)
      {
      case .unknown, .pending: continue
      case .none:
        guard available > 0 else { continue }
        for block in own { users[block.index] += 1 }
        requests[id]?.blocks = own
        requests[id]?.computed = own.count
        requests[id]?.state = .running
        requests[id]?.isTold = false
        if !scheduler.bind(id, local: own.count, targets: []) {
          world.violate(.accounted, "a bind of nothing was refused")
        }
      case .ready(let count):
        for block in own { users[block.index] += 1 }
        // It waits for memory, and asks again.
        guard let targets = take(count) else {
          give(own)
          continue
        }
        requests[id]?.blocks = own + targets
        requests[id]?.computed = own.count
        requests[id]?.state = .loading
        requests[id]?.isTold = false
        if !scheduler.bind(id, local: own.count, targets: targets) {
          world.violate(.accounted, "\(count) blocks were ready, and are not to be bound")
        }
      }
    }
  }

  private func schedule(
    _ id: RequestID, _ computes: inout [(request: RequestID, first: Int, end: Int)]
  ) {
    guard let request = requests[id], request.state == .running else { return }
    let end = min(request.keys.count, request.computed + world.chance.between(1...3))
    var new: [BlockIndex]?
    while new == nil {
      new = take(max(0, end - request.blocks.count))
      guard new == nil else { break }
      // Who came last gives its memory back.
      let last = requests.values.filter { $0.state == .running }.map(\.id).max()
      computes.removeAll { $0.request == last }
      preempt(last ?? id)
      if last == id { return }
    }
    let taken = new ?? []
    requests[id]?.blocks += taken
    let all = requests[id]?.blocks ?? []
    scheduler.scheduled(
      id, computed: request.computed * tokensPerBlock,
      scheduled: max(1, (end - request.computed) * tokensPerBlock), keys: [],
      blocks: request.isTold ? taken : all, isWhole: !request.isTold)
    requests[id]?.isTold = true
    computes.append((id, request.computed, end))
  }

  /// Its memory is another's at once, though the plan that is being made may name it.
  func preempt(_ id: RequestID) {
    guard let request = requests[id] else { return }
    world.stats.preemptions += 1
    requests[id]?.state = .waiting
    requests[id]?.blocks = []
    requests[id]?.computed = 0
    give(request.blocks)
  }

  // MARK: The ranks

  private func attach(_ rank: Int, _ plan: StagedPlan) {
    if let link = ranks[rank].link { read(link, rank) }
    let wanted = ranks[rank].core.begin(plan, at: now)
    if ranks[rank].core.pool == nil { letGo(rank) }
    guard let wanted else { return }
    let link = FleetLink(world, node, self)
    ranks[rank].link = link
    if let process = node.process, !node.isStopped, process.joined(link), let id = link.id {
      let hello = LocalHello(
        engine: wanted.engine, role: .rank(rank), fingerprint: fingerprint,
        stagingSlots: world.limits.stagingSlotsMax, blockBytes: world.blockBytes,
        step: wanted.step)
      process.received(.hello(hello), from: id, over: link)
    }
    guard ranks[rank].core.pool == wanted.pool else {
      letGo(rank)
      return ranks[rank].core.attachFailed(at: now)
    }
  }

  private func letGo(_ rank: Int) {
    ranks[rank].link?.end()
    ranks[rank].link = nil
    ranks[rank].mapping = nil
    ranks[rank].staging = nil
    ranks[rank].core.lost()
  }

  private func read(_ link: FleetLink, _ rank: Int) {
    guard let messages = link.takeAll() else { return letGo(rank) }
    for case .freed(let slots) in messages { ranks[rank].core.freed(slots) }
  }

  /// Copies the first half of each block.
  private func beginLoads(_ rank: Int) -> [(load: StagedLoad, sound: [BlockMove])] {
    ranks[rank].core.takeLoads().map { load in
      guard let mapping = ranks[rank].mapping, ranks[rank].core.pool == load.pool else {
        return (load, [])
      }
      let sound = load.moves.filter { mapping.words.isReadable($0.source, $0.generation) }
      for move in sound { copy(move, mapping, rank, isSecond: false) }
      return (load, sound)
    }
  }

  private func copy(
    _ move: BlockMove, _ mapping: MemoryStore.MemoryPool, _ rank: Int, isSecond: Bool
  ) {
    let half = world.blockBytes / 2
    let first = isSecond ? half : 0
    ranks[rank].pages.region.pointer(to: move.target.index).advanced(by: first).copyMemory(
      from: mapping.memory.region.pointer(to: move.source.index) + first,
      byteCount: isSecond ? world.blockBytes - half : half)
  }

  private func endLoads(_ rank: Int, _ halves: [(load: StagedLoad, sound: [BlockMove])]) {
    for (load, sound) in halves {
      var right: Set<BlockIndex> = []
      if let mapping = ranks[rank].mapping {
        for move in sound { copy(move, mapping, rank, isSecond: true) }
        right = Set(
          mapping.words.stillReadable(sound.map { ($0.source, $0.generation) }).map {
            sound[$0].target
          })
      }
      ranks[rank].core.loaded(
        load, failed: load.moves.map(\.target).filter { !right.contains($0) })
    }
  }

  private func stage(_ rank: Int) {
    if let link = ranks[rank].link { read(link, rank) }
    guard let staging = ranks[rank].staging, let link = ranks[rank].link else { return }
    let stages = ranks[rank].core.takeStages(blockCount: blockCount)
    guard !stages.isEmpty else { return }
    for stage in stages {
      staging.region.pointer(to: Int(stage.slot)).copyMemory(
        from: ranks[rank].pages.region.pointer(to: stage.block.index),
        byteCount: world.blockBytes)
    }
    if link.send(ranks[rank].core.message(for: stages)) { ranks[rank].core.sent(stages) }
    if world.bug == .stagingReusedAtOnce { ranks[rank].core.freed(stages.map(\.slot)) }
  }

  // MARK: Its end

  private func endStep() {
    guard let step = inStep else { return }
    inStep = nil
    for rank in ranks.indices { endLoads(rank, step.halves[rank]) }
    for compute in step.computes { self.compute(compute) }
    for rank in ranks.indices { stage(rank) }
    var errors: Set<BlockIndex> = []
    var reports: [StagedReport] = []
    for rank in ranks.indices {
      let taken = ranks[rank].core.takeReport()
      let failed = ranks[rank].core.takeErrors()
      guard var report = taken else { continue }
      if world.bug == .firstRankForAll, rank > 0 {
        report.loaded = report.loaded.map { .init(request: $0.request, isWhole: true) }
      } else {
        errors.formUnion(failed)
      }
      reports.append(report)
    }
    for load in step.plan.loads { loaded(load.request, errors) }
    hear()
    if !step.plan.ordersNothing { scheduler.absorb(reports, at: now) }
    for compute in step.computes { finishIfDone(compute) }
    flush()
    world.check(self)
    if !requests.isEmpty || scheduler.hasOrders { wake() }
  }

  /// What failed is computed again, in the same pages, and everything after it.
  private func loaded(_ id: RequestID, _ errors: Set<BlockIndex>) {
    guard let request = requests[id], request.state == .loading else { return }
    let right = request.blocks.firstIndex { errors.contains($0) } ?? request.blocks.count
    requests[id]?.computed = right
    requests[id]?.state = .running
    if right == request.blocks.count {
      world.stats.loads += 1
    } else {
      world.stats.loadsFailed += 1
    }
  }

  private func compute(_ compute: (request: RequestID, first: Int, end: Int)) {
    guard let request = requests[compute.request], request.state == .running,
      request.blocks.count >= compute.end
    else { return }
    // Each token rests on all before it.
    world.checkPages(self, request, before: compute.first)
    for place in compute.first..<compute.end {
      for rank in ranks.indices {
        let bytes = world.golden(request.keys[place], rank: rank, model: model)
        bytes.withUnsafeBytes {
          ranks[rank].pages.region.pointer(to: request.blocks[place].index).copyMemory(
            from: $0.baseAddress!, byteCount: bytes.count)
        }
      }
    }
  }

  private func finishIfDone(_ compute: (request: RequestID, first: Int, end: Int)) {
    guard let request = requests[compute.request], request.state == .running,
      request.computed == compute.first
    else { return }
    requests[compute.request]?.computed = compute.end
    if compute.end == request.keys.count { finish(compute.request) }
  }

  private func finish(_ id: RequestID) {
    guard let request = requests[id] else { return }
    world.checkPages(self, request, before: request.keys.count)
    remember(request)
    requests[id] = nil
    scheduler.finished(id)
    give(request.blocks)
    world.stats.finished += 1
  }
}

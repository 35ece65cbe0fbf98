import KVConnector
import KVTransfer
import LocalStore
import RemoteG2Core

/// An engine of somebody else's beside a node: the shipped scheduler and worker halves, and habits as engines have
/// them. It asks again, with fewer or more blocks of its own, it lets requests wait for memory, takes blocks back
/// from who runs, ends requests at any moment, and writes freed pages at once.
final class FleetEngine {
  enum State { case waiting, loading, running }

  struct Request {
    let id: RequestID
    let keys: [BlockKey]
    var state = State.waiting
    /// As many of them as it has pages for.
    var blocks: [BlockIndex] = []
    /// Of them, those whose KV is there.
    var computed = 0
    /// Whether the scheduler half has heard of all its blocks.
    var isTold = false
  }

  struct Rank {
    var core: StagedWorker
    let pages: BlockMemory
    var mapping: MemoryStore.MemoryPool?
    var staging: BlockMemory?
    var link: FleetLink?
  }

  /// One step between its beginning and its end.
  struct Step {
    let plan: StagedPlan
    /// Block copies that are half done: by rank, those whose words were right before.
    var halves: [[(load: StagedLoad, sound: [BlockMove])]] = []
    var computes: [(request: RequestID, first: Int, end: Int)] = []
  }

  unowned let world: FleetWorld
  let node: FleetNode
  let control: SimControl
  /// Whose blocks it has: engines of two models share nothing.
  let model: Int
  let fingerprint: Fingerprint
  var scheduler: StagedScheduler
  var ranks: [Rank]
  let blockCount: Int
  var free: [BlockIndex]
  var users: [Int]
  /// Blocks of requests that have ended, by key; the oldest first.
  var cache: [BlockKey: BlockIndex] = [:]
  var cacheOrder: [BlockKey] = []
  var requests: [RequestID: Request] = [:]
  var inStep: Step?
  var link: FleetLink?
  private(set) var isAlive = true
  private(set) var isPaused = false
  private var held: [() -> Void] = []
  private var isStepPlanned = false
  private var timerAt = Int64.max

  init(_ world: FleetWorld, _ node: FleetNode, model: Int) {
    self.world = world
    self.node = node
    self.model = model
    fingerprint = world.fingerprint(of: model)
    let limits = world.limits
    control = SimControl(
      ownStore: node.name.text, peers: [], as: fingerprint, blockBytes: world.blockBytes,
      limits: limits, at: node.localTime(world.now), chance: Chance(seed: world.chance.next()))
    scheduler = StagedScheduler(
      engine: control.incarnation, rankCount: world.rankCount, blockBytes: world.blockBytes,
      tokensPerBlock: FleetWorld.tokensPerBlock, limits: limits)
    let blockCount = world.chance.between(14...40)
    self.blockCount = blockCount
    ranks = (0..<world.rankCount).map { rank in
      Rank(
        core: StagedWorker(rank: rank, limits: limits),
        pages: BlockMemory(blockBytes: world.blockBytes, blockCount: blockCount))
    }
    free = (0..<blockCount).map { BlockIndex($0) }
    users = Array(repeating: 0, count: blockCount)
    control.own = { [unowned self] order in perform(order) }
    control.onDeadline = { [unowned self] in planTimer() }
    control.onNews = { [unowned self] in wake() }
    planTimer()
  }

  var now: LocalInstant { node.localTime(world.now) }

  // MARK: Its node

  private func perform(_ order: OwnStore.Order) {
    switch order {
    case .connect:
      world.plan(after: world.localDelay()) { [weak self] in
        self?.whenRunning { [weak self] in self?.connect() }
      }
    case .send(let message):
      guard let link, !link.send(message) else { return }
      link.end()
    case .close:
      let old = link
      link = nil
      old?.onEnd = {}
      old?.end()
    case .answer, .tellUnusable: break
    }
  }

  private func connect() {
    guard isAlive else { return }
    control.now = now
    let made = FleetLink(world, node, self)
    guard world.bug != .nodeNotLookedForAgain || link == nil, let process = node.process,
      process.joined(made)
    else { return control.ownDisconnected() }
    link = made
    made.known = process.known
    made.onMessage = { [weak self] message in
      guard let self, isAlive else { return }
      control.now = now
      control.ownReceived(message)
    }
    made.onEnd = { [weak self, weak made] in
      guard let self, isAlive, link === made else { return }
      control.now = now
      // The planted bug leaves it where it was.
      guard world.bug != .nodeNotLookedForAgain else { return }
      link = nil
      control.ownDisconnected()
    }
    control.ownConnected()
  }

  private func planTimer() {
    guard isAlive, let due = control.core.nextDeadline else { return }
    let at = world.now + node.delay(until: due, from: world.now).nanoseconds
    guard at < timerAt else { return }
    timerAt = at
    world.plan(after: .nanoseconds(at - world.now)) { [weak self] in
      guard let self else { return }
      if timerAt <= world.now { timerAt = .max }
      whenRunning { [weak self] in
        guard let self, isAlive else { return }
        control.now = now
        control.timePassed()
        planTimer()
      }
    }
  }

  /// A rank of it is welcome: its pool and its staging memory come with that.
  func welcomed(
    _ rank: Int, _ welcome: LocalWelcome, _ pool: MemoryStore.MemoryPool, _ staging: BlockMemory,
    _ link: FleetLink
  ) {
    guard ranks[rank].link === link else { return }
    ranks[rank].mapping = pool
    ranks[rank].staging = staging
    ranks[rank].core.attached(welcome.store, stagingSlots: welcome.stagingSlots)
  }

  // MARK: Time

  /// Now, or when its processes go on.
  func whenRunning(_ run: @escaping () -> Void) {
    if isPaused { held.append(run) } else { run() }
  }

  func pause() { isPaused = true }

  func goOn() {
    isPaused = false
    let waiting = held
    held = []
    for run in waiting { run() }
  }

  /// Steps soon.
  func wake() {
    guard isAlive, !isStepPlanned else { return }
    isStepPlanned = true
    world.plan(after: world.chance.duration(.microseconds(200)...(.milliseconds(2)))) {
      [weak self] in
      guard let self else { return }
      whenRunning { [weak self] in
        guard let self, isAlive else { return }
        isStepPlanned = false
        guard inStep == nil else { return }
        beginStep()
      }
    }
  }

  func die() {
    isAlive = false
    isPaused = false
    held = []
    control.cutOff()
    link?.onEnd = {}
    link?.end()
    for rank in ranks.indices {
      ranks[rank].link?.onEnd = {}
      ranks[rank].link?.end()
      ranks[rank].link = nil
    }
    link = nil
  }

  func arrive(_ keys: [BlockKey]) {
    let id = world.nextRequest()
    requests[id] = Request(id: id, keys: keys)
    hear()
    scheduler.newRequest(id, keys: keys, at: now, mayBeKnown: mayBeKnown)
    flush()
    wake()
  }

  /// The client has gone, at any moment between two steps.
  func abort(_ id: RequestID) {
    guard inStep == nil, let request = requests.removeValue(forKey: id) else { return }
    world.stats.aborts += 1
    scheduler.finished(id)
    flush()
    give(request.blocks)
  }

  /// By the table that came with its node's welcome.
  var mayBeKnown: (BlockKey) -> Bool {
    guard let known = link?.known else { return { _ in true } }
    return { known.table.mayHave($0) }
  }

  func hear() {
    control.now = now
    for answer in control.drain() { scheduler.heard(answer, at: now) }
  }

  func flush() {
    control.now = now
    for request in scheduler.takeRequests() { control.post(request) }
  }

  // MARK: Its memory

  /// What is written at once into pages that nobody has.
  private func scribble(_ block: BlockIndex) {
    for rank in ranks {
      rank.pages.region.pointer(to: block.index).initializeMemory(
        as: UInt8.self, repeating: 0xEE, count: world.blockBytes)
    }
  }

  var available: Int { free.count + cache.values.count { users[$0.index] == 0 } }

  /// - Returns: Nil where there are not so many.
  func take(_ count: Int) -> [BlockIndex]? {
    while free.count < count {
      guard
        let place = cacheOrder.firstIndex(where: { cache[$0].map { users[$0.index] == 0 } ?? true })
      else { return nil }
      let key = cacheOrder.remove(at: place)
      guard let block = cache.removeValue(forKey: key) else { continue }
      scribble(block)
      free.append(block)
    }
    let taken = Array(free.suffix(count))
    free.removeLast(count)
    for block in taken { users[block.index] += 1 }
    return taken
  }

  func give(_ blocks: [BlockIndex]) {
    for block in blocks {
      users[block.index] -= 1
      guard users[block.index] == 0, !cache.values.contains(block) else { continue }
      scribble(block)
      free.append(block)
    }
  }

  /// Its own prefix of a request's blocks.
  func cached(_ keys: [BlockKey]) -> [BlockIndex] {
    guard world.cachesPrefixes else { return [] }
    var found: [BlockIndex] = []
    for key in keys {
      guard let block = cache[key] else { break }
      found.append(block)
    }
    return found
  }

  func remember(_ request: Request) {
    guard world.cachesPrefixes else { return }
    for (key, block) in zip(request.keys.prefix(request.computed), request.blocks)
    where cache[key] == nil {
      cache[key] = block
      cacheOrder.append(key)
    }
  }
}

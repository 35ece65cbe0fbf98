import KVTransfer
import LocalStore
import RemoteG2Core

/// One host: its clock, its node's process, its engines.
final class FleetNode {
  let index: Int
  let name: PeerName
  private let drift: Double
  private unowned let world: FleetWorld
  var process: FleetProcess?
  var engines: [FleetEngine] = []
  /// Its node's process is stopped, as by SIGSTOP.
  private(set) var isStopped = false
  /// When it went on last.
  private(set) var wentOnAt: Int64 = 0
  private var held: [() -> Void] = []

  init(_ world: FleetWorld, index: Int, drift: Double) {
    self.world = world
    self.index = index
    self.drift = drift
    name = PeerName("N\(index)")
  }

  func localTime(_ now: Int64) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(Double(now) * (1 + drift)) + 1)
  }

  func delay(until local: LocalInstant, from now: Int64) -> Duration {
    .nanoseconds(max(0, Int64(Double(local.nanoseconds) / (1 + drift)) - now) + 1)
  }

  /// Now, or when its process goes on. Not at all when it has ended by then.
  func whenRunning(_ run: @escaping () -> Void) {
    guard isStopped else { return run() }
    let current = process
    held.append { [unowned self] in if process === current { run() } }
  }

  func stop() { isStopped = true }

  func goOn() {
    guard isStopped else { return }
    isStopped = false
    wentOnAt = world.now
    let waiting = held
    held = []
    for run in waiting { run() }
  }

  /// Its process has ended.
  func forgetHeld() {
    held = []
    isStopped = false
  }
}

/// One life of a node's process: the shipped core and stream machines, over simulated sockets and plain memory.
final class FleetProcess {
  unowned let world: FleetWorld
  let node: FleetNode
  let incarnation: Incarnation
  var core: NodeCore
  var memory: [PoolNumber: [MemoryStore.MemoryPool]] = [:]
  private var writers: [PoolNumber: [PoolWriter.Pool]] = [:]
  private var staging: [ConnectionID: BlockMemory] = [:]
  private var links: [ConnectionID: FleetLink] = [:]
  /// Who writes which slot, by pool.
  var writing: [PoolNumber: Set<SlotIndex>] = [:]
  var pulls: [StreamID: FleetPull] = [:]
  var idle: [FleetRoute: [FleetSocket]] = [:]
  var serves: [FleetServe] = []
  var watches: [FleetWatch] = []
  /// What its engines look up before they ask.
  let known: FleetKnownKeys
  private(set) var isAlive = true
  private var isTurnPlanned = false
  private var timerAt = Int64.max
  var pullWakeAt: LocalInstant?
  /// Questions of engines that are not answered: when they came.
  var asked: [FleetQuestion: LocalInstant] = [:]
  private var answered: Set<FleetQuestion> = []
  private var streamsEver: Set<StreamID> = []

  init(_ world: FleetWorld, _ node: FleetNode) {
    self.world = world
    self.node = node
    incarnation = Incarnation(using: &world.chance)
    known = FleetKnownKeys(count: world.limits.knownKeysBytes)
    let others = world.nodes.filter { $0 !== node }
    core = NodeCore(
      node: incarnation, name: node.name, members: others.map(\.name),
      memoryBytes: world.slotCount * world.blockBytes * world.rankCount, limits: world.limits)
    let hello = StreamHello(node: incarnation, name: node.name, terms: nil)
    watches = others.map { other in
      FleetWatch(
        WatchMachine(
          other.name, at: other.name.text, as: hello, limits: world.limits, from: now),
        of: other)
    }
    wake()
  }

  var now: LocalInstant { node.localTime(world.now) }

  /// Whether it could not do what was due then, or has only just been able to.
  func wasStopped(since due: LocalInstant) -> Bool {
    node.localTime(node.wentOnAt) + .milliseconds(40) >= due && node.wentOnAt > 0
      && now - node.localTime(node.wentOnAt) < .milliseconds(40)
  }

  // MARK: Turns

  /// Its threads look at all there is, soon.
  func wake() {
    guard isAlive, !isTurnPlanned else { return }
    isTurnPlanned = true
    world.plan(after: world.chance.duration(.microseconds(2)...(.microseconds(60)))) { [self] in
      isTurnPlanned = false
      node.whenRunning { [self] in turn() }
    }
  }

  private func turn() {
    guard isAlive else { return }
    timePassed()
    turnStreams()
    timePassed()
    planTimer()
    world.check(self)
  }

  private func timePassed() {
    guard let due = core.nextDeadline, due <= now, world.bug != .deadlineNeedsTraffic else {
      return
    }
    advance { core, now in core.timePassed(at: now) }
  }

  private func planTimer() {
    let stalls = pulls.values.map { $0.machine.stallsAt }
    pullWakeAt = stalls.min()
    let dues =
      stalls + watches.map { $0.machine.nextDeadline }
      + serves.compactMap { $0.machine.nextDeadline }
      + (world.bug == .deadlineNeedsTraffic ? [] : [core.nextDeadline].compactMap { $0 })
    guard let due = dues.min() else { return }
    let at = world.now + node.delay(until: max(due, now), from: world.now).nanoseconds
    guard at < timerAt else { return }
    timerAt = at
    world.plan(after: .nanoseconds(at - world.now)) { [self] in
      if timerAt <= world.now { timerAt = .max }
      node.whenRunning { [self] in turn() }
    }
  }

  // MARK: Its own engines

  func joined(_ link: FleetLink) -> Bool {
    guard let id = core.joined(at: now) else { return false }
    link.id = id
    links[id] = link
    return true
  }

  func received(_ message: LocalMessage, from id: ConnectionID, over link: FleetLink) {
    guard isAlive, links[id] === link else { return }
    switch message {
    case .want(let lease, _, true, _): asked[question(lease, link)] = now
    case .release(let lease): asked[question(lease, link)] = nil
    default: break
    }
    advance { core, now in core.received(message, from: id, at: now) }
    planTimer()
    world.check(self)
  }

  func left(_ id: ConnectionID) {
    guard isAlive, let link = links.removeValue(forKey: id) else { return }
    staging[id] = nil
    asked = asked.filter { $0.key.link != link.serial }
    advance { core, now in core.left(id, at: now) }
    world.check(self)
  }

  /// What it reads at its end may be asked of the core by anybody.
  func advance(_ event: (inout NodeCore, LocalInstant) -> [NodeAction]) {
    let actions = event(&core, now)
    publish()
    for action in actions { perform(action) }
  }

  /// What became known of keys by what it has just decided, its engines can look up.
  func publish() {
    let changes = core.takeKnownChanges()
    guard !changes.isEmpty else { return }
    if world.bug != .keysNotKnown { for change in changes { known.table.note(change) } }
    world.checkKnown(self)
  }

  private func perform(_ action: NodeAction) {
    switch action {
    case .local(let action, let pool): perform(action, pool)
    case .makePool(let number, let terms, let slots): makePool(number, terms, slots)
    case .pull(let stream, let member, let number, let terms, let keys, let patience):
      if !streamsEver.insert(stream).inserted {
        world.violate(.namesNeverReused, "\(stream) of \(node.name) was named twice")
      }
      beginPull(stream, member, number, terms, keys, patience)
    case .cancel(let stream): endPull(stream, .broken, keepsConnection: false)
    case .feedChanged: wake()
    case .startAgent, .endAgent: preconditionFailure("nodes of a fleet have no agents")
    }
  }

  private func perform(_ action: LocalAction, _ number: PoolNumber?) {
    switch action {
    case .send(let id, let message): send(message, to: id, number)
    case .welcomeRank(let id, let rank, let welcome):
      guard let number, let pools = memory[number], let link = links[id] else { return close(id) }
      let made = BlockMemory(blockBytes: welcome.blockBytes, blockCount: welcome.stagingSlots)
      staging[id] = made
      link.engine.welcomed(rank, welcome, pools[rank], made, link)
    case .copy(let copy):
      guard let number else { preconditionFailure("a copy is into a pool") }
      beginCopy(copy, number)
    case .want: preconditionFailure("what is wanted is the core's business")
    case .close(let id): close(id)
    }
  }

  private func close(_ id: ConnectionID) { links[id]?.end() }

  private func send(_ message: LocalMessage, to id: ConnectionID, _ number: PoolNumber?) {
    guard let link = links[id] else { return }
    switch message {
    case .found(let lease, let blocks, let isLast):
      if let number { world.checkGranted(blocks, self, number, of: link.engine) }
      if isLast { answer(lease, link) }
    case .notFound(let lease, _): answer(lease, link)
    case .refused: world.stats.refusals += 1
    default: break
    }
    link.deliver(message)
    if case .found = message, world.bug == .answersTwice, world.chance.happens(0.3) {
      send(message, to: id, number)
    }
  }

  private func answer(_ lease: UInt64, _ link: FleetLink) {
    let question = question(lease, link)
    asked[question] = nil
    if !answered.insert(question).inserted {
      world.violate(.oneTerminalResult, "\(node.name) answered question \(lease) twice")
    }
  }

  private func question(_ lease: UInt64, _ link: FleetLink) -> FleetQuestion {
    FleetQuestion(link: link.serial, lease: lease)
  }

  // MARK: Memory

  private func makePool(_ number: PoolNumber, _ terms: PoolTerms, _ slots: Int) {
    let kept = core.poolNumbers
    memory = memory.filter { kept.contains($0.key) }
    writers = writers.filter { kept.contains($0.key) }
    world.plan(after: world.localDelay()) { [self] in
      node.whenRunning { [self] in
        guard isAlive else { return }
        let pools = (0..<terms.rankCount).map { _ in
          MemoryStore.MemoryPool(blockBytes: terms.blockBytes, slotCount: slots)
        }
        memory[number] = pools
        writers[number] = pools.map {
          PoolWriter.Pool(
            base: $0.memory.region.base, blockBytes: terms.blockBytes, words: $0.words)
        }
        let id = Incarnation(using: &world.chance)
        advance { core, now in core.poolMade(number, .success(id), at: now) }
      }
    }
  }

  private func beginCopy(_ copy: StageCopy, _ number: PoolNumber) {
    // The pool may make room for another before the copy ends; its bytes are there for whoever still writes them.
    guard let pools = writers[number], let kept = memory[number] else { return }
    world.beginsWriting(copy.slot, number, self)
    // What each rank staged may outlive its connection.
    let sources = copy.sources.map { staging[$0.connection] }
    if world.bug == .bytesBeforeWord {
      for (pool, (memory, source)) in zip(pools, zip(sources, copy.sources)) {
        guard let memory else { continue }
        (pool.base + copy.slot.index * pool.blockBytes).copyMemory(
          from: memory.region.pointer(to: Int(source.slot)), byteCount: pool.blockBytes)
      }
    } else {
      PoolWriter.begin(copy, pools)
    }
    let most: Duration = world.chance.happens(0.3) ? .milliseconds(6) : .microseconds(600)
    world.plan(after: world.chance.duration(.microseconds(5)...most)) { [self] in
      node.whenRunning { [self] in
        guard isAlive else { return }
        let digests = withExtendedLifetime(kept) {
          PoolWriter.finish(
            copy,
            from: zip(sources, copy.sources).map { memory, source in
              memory.map { UnsafeRawPointer($0.region.pointer(to: Int(source.slot))) }
            }, pools)
        }
        writing[number]?.remove(copy.slot)
        if digests != nil { world.checkSealed(copy.slot, copy.key, self, number) }
        advance { core, _ in core.copied(copy, in: number, digests: digests) }
        world.check(self)
      }
    }
  }

  // MARK: The end

  /// - Parameter isSilent: Its host went with it: nobody hears of it over the network.
  func die(silently isSilent: Bool) {
    isAlive = false
    for link in links.values.sorted(by: { ($0.id?.value ?? 0) < ($1.id?.value ?? 0) }) {
      link.end()
    }
    let sockets =
      pulls.sorted { $0.key < $1.key }.map { $0.value.socket } + serves.map(\.socket)
      + watches.compactMap(\.socket) + idle.sorted { $0.key < $1.key }.flatMap(\.value)
    for socket in sockets {
      if isSilent { socket.vanish() } else { socket.close(abruptly: true) }
    }
    links = [:]
    pulls = [:]
    serves = []
    watches = []
    idle = [:]
  }
}

struct FleetQuestion: Hashable {
  let link: UInt64
  let lease: UInt64
}

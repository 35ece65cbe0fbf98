import KVConnector
import KVLayout
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import TransferRig

/// Processes start, step, are turned, and die.
extension SimWorld {
  // MARK: Stores

  func startStore(_ node: SimNode) {
    guard let bytes = try? ToyModel().layout.blockBytes else { return }
    let store = SimStore(
      name: node.name, incarnation: Incarnation(using: &chance), fingerprint: fingerprint,
      slotCount: node.slotCount, blockBytes: bytes, limits: limits)
    if storesEver[store.incarnation] != nil {
      violate(.namesNeverReused, "incarnation \(store.incarnation) was drawn twice")
    }
    storesEver[store.incarnation] = store
    node.store = store
    store.memory.onCopy = { [unowned self, unowned store, unowned node] in
      // A copy takes its time, and the process may die in the middle of it.
      plan(after: chance.duration(.microseconds(5)...(.microseconds(400)))) { [unowned self] in
        finishCopy(node, store)
      }
    }
    for other in nodes { publish(store, to: other) }
  }

  private func finishCopy(_ node: SimNode, _ store: SimStore) {
    guard node.store === store else { return }
    guard store.isReachable else {
      node.held.append { [unowned self] in finishCopy(node, store) }
      return
    }
    store.memory.finishCopy(at: node.localTime(now))
  }

  private func publish(_ store: SimStore, to node: SimNode) {
    for (rank, fabric) in node.fabrics.enumerated() {
      fabric.publish(store.source, store.memory.pools[rank].memory.region)
    }
    refreshReach(node)
  }

  /// - Parameter isSilent: Its host went first: nobody hears of it, whoever is reached.
  func killStore(_ node: SimNode, silently isSilent: Bool = false) {
    guard let store = node.store else { return }
    node.store = nil
    node.held = []
    for engine in engines(on: node) {
      engine.ownLink?.storeDied()
      for (_, link) in engine.rankLinks.sorted(by: { $0.key < $1.key }) { link.storeDied() }
    }
    for other in nodes {
      for fabric in other.fabrics {
        // Behind a cut its reads stay in progress for ever: only the fence ends them.
        if isSilent || isPartitioned(node.index, other.index) {
          fabric.stop(store.source)
        } else {
          fabric.kill(store.source)
        }
      }
    }
  }

  /// Sets, for every store, whether this node's reads from it move.
  func refreshReach(_ node: SimNode) {
    for other in nodes {
      guard let store = other.store else { continue }
      let isCut = !store.isReachable || isPartitioned(node.index, other.index)
      for fabric in node.fabrics {
        if isCut { fabric.stop(store.source) } else { fabric.resume(store.source) }
      }
    }
  }

  func planReaper(_ node: SimNode) {
    plan(after: .milliseconds(25)) { [unowned self] in
      if let store = node.store, store.isReachable {
        store.memory.ledger.expireDue(at: node.localTime(now))
        checkStore(store)
      }
      planReaper(node)
    }
  }

  // MARK: Engines

  func startEngine(_ node: SimNode) {
    node.fabrics = (0..<rankCount).map { _ in MemoryFabric() }
    let control = SimControl(
      ownStore: node.name.text, peers: nodes.map(\.name).filter { $0 != node.name },
      as: fingerprint,
      limits: limits, at: node.localTime(now), chance: Chance(seed: chance.next()))
    // No two ranks' clocks agree, and no outcome may show it.
    let clockErrors = (0..<rankCount).map { rank in
      rank == 0
        ? SimClockError()
        : SimClockError(
          offset: chance.duration(.seconds(-10)...(.seconds(10))),
          drift: (chance.unit() - 0.5) / 50)
    }
    let engine = SimEngine(
      .init(
        worker: node.index, clockErrors: clockErrors, blockCount: node.blockCount, limits: limits,
        proof: proof, policy: policy, transferBlocks: chance.between(1...4),
        stagingSlots: chance.pick([1, 4, 32]), bug: bug),
      control: control, chain: chain, fabrics: node.fabrics,
      fault: { [unowned self] _ in drawTransferFault() })
    node.engine = engine
    engine.setClock(node.localTime(now))
    for other in nodes { if let store = other.store { publish(store, to: node) } }
    control.send = { [unowned self, unowned engine] call, store, request in
      sendCall(from: engine, call, to: store, request)
    }
    control.own = { [unowned self, unowned engine] order in performOwn(order, of: engine) }
    control.onDeadline = { [unowned self, unowned engine] in armControl(engine) }
    engine.open = { [unowned self, unowned engine] rank, source, address in
      open(source, address, onRank: rank, of: engine)
    }
    control.onNews = { [unowned self, unowned engine] in ring(engine) }
    engine.spy.onSealed = { [unowned self, unowned engine] in checkSealed($0, on: engine) }
    for (rank, pump) in engine.pumps.enumerated() {
      pump.onOrder = { [unowned self, unowned engine] in
        planTurn(engine, rank, after: .microseconds(10))
      }
      pump.memory.onCopy = { [unowned self, unowned engine] transfer, block in
        guard engine.connector.mayWrite(block, transfer.fetch) else {
          violate(.quietBeforeReuse, "\(transfer) wrote \(block), which is not its own any more")
          return
        }
        if engine.engine.holds(of: block) == 0 {
          violate(.quietBeforeReuse, "\(transfer) wrote \(block), which is free")
        }
      }
    }
    armControl(engine)
    ring(engine)
  }

  func killEngine(_ node: SimNode) {
    guard let engine = node.engine else { return }
    end(engine)
    node.engine = nil
    node.fabrics = []
  }

  func killGhost(_ node: SimNode) {
    guard let ghost = node.ghost else { return }
    end(ghost)
    node.ghost = nil
  }

  private func end(_ engine: SimEngine) {
    engine.isAlive = false
    engine.held = []
    // The kernel closes what the process had open.
    engine.ownLink?.hangUp()
    for (_, link) in engine.rankLinks.sorted(by: { $0.key < $1.key }) { link.hangUp() }
    for pump in engine.pumps {
      pump.onOrder = {}
      pump.core.shutDown()
    }
    engine.control.cutOff()
    // A killed process gives nothing back; here its values must end all the same.
    engine.connector.shutDown(at: engine.now)
  }

  /// Runs `body` as the engine's process, when its clock says `at`, or when it is no longer paused.
  func planLocal(_ engine: SimEngine, at: LocalInstant, _ body: @escaping () -> Void) {
    let node = nodes[engine.worker]
    planFor(engine, at: max(now, node.globalTime(at)), body)
  }

  func planFor(_ engine: SimEngine, at time: Int64, _ body: @escaping () -> Void) {
    let turn = { [self] in
      guard engine.isAlive else { return }
      if engine.pausedUntil > now {
        engine.held.append(body)
        return
      }
      engine.setClock(nodes[engine.worker].localTime(now))
      body()
    }
    queue.insert(turn, due: time)
  }

  /// The engine's process is stopped: one that is, for longer or not at all. None of its timers runs before the
  /// others do.
  func pause(_ engine: SimEngine, for time: Duration) {
    engine.pausedUntil = max(engine.pausedUntil, now + time.nanoseconds)
    queue.insert(
      { [self] in if engine.pausedUntil <= now { goOn(engine) } }, due: engine.pausedUntil)
  }

  func goOn(_ engine: SimEngine) {
    engine.pausedUntil = 0
    let held = engine.held
    engine.held = []
    for body in held { planFor(engine, at: now, body) }
  }

  /// Every engine on a node: the one that counts, and one that was stopped and given up.
  func engines(on node: SimNode) -> [SimEngine] {
    [node.engine, node.ghost].compactMap { $0 }
  }

  /// Wakes the engine's control client when something is due.
  private func armControl(_ engine: SimEngine) {
    guard let due = engine.control.core.nextDeadline else { return }
    let at = max(now, nodes[engine.worker].globalTime(due) + 2)
    guard at < engine.controlPlannedAt else { return }
    engine.controlPlannedAt = at
    engine.controlToken += 1
    let token = engine.controlToken
    planFor(engine, at: at) { [unowned self, unowned engine] in
      guard token == engine.controlToken else { return }
      engine.controlPlannedAt = .max
      engine.control.timePassed()
      armControl(engine)
    }
  }

  private func performOwn(_ order: OwnStore.Order, of engine: SimEngine) {
    let node = nodes[engine.worker]
    switch order {
    case .connect where bug == .storeNotLookedForAgain && engine.hasLinked: break
    case .connect:
      plan(after: .microseconds(20)) { [unowned self, weak engine] in
        if let engine { connectOwn(engine, node) }
      }
    case .send(.withdraw) where bug == .withdrawForgotten: break
    case .send(let message): _ = engine.ownLink?.send(message)
    case .close:
      engine.ownLink?.hangUp()
      engine.ownLink = nil
    case .answer: preconditionFailure("answers are taken from the core")
    case .tellUnusable(let reason):
      violate(.sideServiceMayVanish, "\(node.name)'s store was refused: \(reason)")
    }
  }

  private func connectOwn(_ engine: SimEngine, _ node: SimNode) {
    let link = MemoryLink(now: { [unowned self, unowned node] in node.localTime(now) })
    guard let store = node.store, engine.isAlive, !store.hasVanished else {
      planFor(engine, at: now) { [unowned engine] in engine.control.ownDisconnected() }
      return
    }
    carry(link, of: engine, store, node)
    // The kernel connects, whether the process runs or not.
    guard store.memory.connect(link) else { return }
    engine.ownLink = link
    link.onMessage = { [weak self, weak engine, weak link] message, _ in
      guard let engine, engine.ownLink === link else { return }
      if case .wanted = message, self?.bug == .wantedLost { return }
      engine.control.ownReceived(message)
    }
    link.onClose = { [weak engine, weak link] in
      guard let engine, engine.ownLink === link else { return }
      engine.ownLink = nil
      engine.control.ownDisconnected()
    }
    planFor(engine, at: now) { [unowned engine, weak link] in
      if engine.ownLink === link { engine.control.ownConnected() }
    }
  }

  /// What a rank does to read a source, and to save into its own store.
  private func open(
    _ source: SourceID, _ address: SourceAddress, onRank rank: Int, of engine: SimEngine
  ) -> SourceDescription? {
    guard !chance.happens(isHealed ? 0 : weights.attachFailure) else { return nil }
    guard case .own(_, let id) = address else {
      return storesEver[source.incarnation].map {
        .mapped($0.memory.pools[rank].memory.region, owner: $0)
      }
    }
    let node = nodes[engine.worker]
    guard let store = node.store, store.incarnation == source.incarnation, store.isReachable else {
      return nil
    }
    let link = MemoryLink(now: { [unowned self, unowned node] in node.localTime(now) })
    var welcomed: (MemoryStore.MemoryPool, BlockMemory)?
    // The store answers within microseconds, and the rank waits for that.
    link.onMessage = { _, memory in welcomed = memory ?? welcomed }
    guard store.memory.connect(link) else { return nil }
    _ = link.send(
      .hello(
        LocalHello(
          engine: id, role: .rank(rank), fingerprint: fingerprint,
          stagingSlots: engine.stagingSlots)))
    guard let (pool, staging) = welcomed else { return nil }
    carry(link, of: engine, store, node)
    engine.rankLinks[rank] = link
    return .mapped(
      pool.memory.region, words: pool.words,
      link: BuggyStagingLink(MemoryStagingLink(link, staging), bug), owner: pool)
  }

  // MARK: Pumps

  func planTurn(_ engine: SimEngine, _ rank: Int, after delay: Duration) {
    let pump = engine.pumps[rank]
    pump.turnToken += 1
    let token = pump.turnToken
    planFor(engine, at: now + delay.nanoseconds) { [unowned self, unowned engine] in
      let pump = engine.pumps[rank]
      guard token == pump.turnToken else { return }
      let (didWork, hasNews) = pump.turn(at: engine.now(onRank: rank))
      if hasNews { ring(engine) }
      if didWork {
        pump.nap = .microseconds(100)
        planTurn(engine, rank, after: chance.duration(.microseconds(20)...(.milliseconds(8))))
      } else if !pump.isIdle {
        planTurn(engine, rank, after: pump.nap)
        pump.nap = min(pump.nap * 2, .milliseconds(10))
      }
    }
  }

  // MARK: Steps

  /// News for a step loop: it steps soon, unless it is in the middle of a step.
  func ring(_ engine: SimEngine) {
    if bug == .idleEngineNotWoken { return }
    planStep(engine, at: max(now + 5_000, engine.busyUntil))
  }

  func planStep(_ engine: SimEngine, at time: Int64) {
    guard time < engine.stepPlannedAt else { return }
    engine.stepPlannedAt = time
    engine.stepToken += 1
    let token = engine.stepToken
    planFor(engine, at: time) { [unowned self, unowned engine] in
      guard token == engine.stepToken else { return }
      engine.stepPlannedAt = .max
      stepEngine(engine)
    }
  }

  private func stepEngine(_ engine: SimEngine) {
    let didCompute = engine.engine.step()
    for result in engine.engine.takeFinished() { finished(result, on: engine) }
    checkStep(engine)
    let slow = chance.happens(0.02) ? 8 : 1
    let cost: Duration =
      didCompute
      ? chance.duration(.milliseconds(1)...(.milliseconds(6))) * slow : .microseconds(30)
    engine.busyUntil = now + cost.nanoseconds
    if didCompute || (engine.spy.wantsStep && bug != .idleEngineNotWoken) {
      planStep(engine, at: engine.busyUntil)
      return
    }
    if bug == .idleEngineNotWoken { return }
    let tick: Duration =
      engine.spy.isBusy || engine.engine.hasRequests ? .milliseconds(20) : .seconds(1)
    let local = min(engine.spy.nextDeadline ?? engine.now + tick, engine.now + tick)
    let at = nodes[engine.worker].globalTime(local)
    planStep(engine, at: max(engine.busyUntil, at))
  }

  private func finished(_ result: RequestResult, on engine: SimEngine) {
    guard let wanted = engine.running.removeValue(forKey: result.id) else {
      violate(.oneTerminalResult, "\(result.id) ended twice, or was never given")
      return
    }
    stats.finished += 1
    stats.preemptions += result.account.preemptions > 0 ? 1 : 0
    for token in result.generated { note(UInt64(bitPattern: Int64(token))) }
    if engine.cancelled.remove(result.id) != nil { return }
    checkResult(result, wanted.prompt, wanted.generateMax, on: engine)
  }
}

import KVConnector
import KVLayout
import KVTransfer
import RemoteG2Core
import RemoteG2Engine

/// Processes start, step, are turned, and die.
extension SimWorld {
  // MARK: Stores

  func startStore(_ node: SimNode) {
    guard let bytes = try? ToyModel().layout.blockBytes else { return }
    let store = SimStore(
      name: node.name, incarnation: Incarnation(using: &chance), slotCount: node.slotCount,
      rankCount: rankCount, blockBytes: bytes, limits: limits)
    if storesEver[store.incarnation] != nil {
      violate(.namesNeverReused, "incarnation \(store.incarnation) was drawn twice")
    }
    storesEver[store.incarnation] = store
    node.store = store
    for other in nodes { publish(store, to: other) }
  }

  private func publish(_ store: SimStore, to node: SimNode) {
    for (rank, fabric) in node.fabrics.enumerated() {
      fabric.publish(store.source, store.pools[rank].region)
    }
    refreshReach(node)
  }

  func killStore(_ node: SimNode) {
    guard let store = node.store else { return }
    node.store = nil
    node.held = []
    for other in nodes {
      for fabric in other.fabrics {
        // Behind a cut its reads stay in progress for ever: only the fence ends them.
        if isPartitioned(node.index, other.index) {
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
      let isCut = store.isStopped || isPartitioned(node.index, other.index)
      for fabric in node.fabrics {
        if isCut { fabric.stop(store.source) } else { fabric.resume(store.source) }
      }
    }
  }

  func planReaper(_ node: SimNode) {
    plan(after: .milliseconds(25)) { [unowned self] in
      if let store = node.store, !store.isStopped {
        store.ledger.expireDue(at: node.localTime(now))
        checkStore(store)
      }
      planReaper(node)
    }
  }

  // MARK: Engines

  func startEngine(_ node: SimNode) {
    node.fabrics = (0..<rankCount).map { _ in MemoryFabric() }
    let control = SimControl(
      ownStore: node.name, peers: nodes.map(\.name).filter { $0 != node.name }, limits: limits,
      chance: Chance(seed: chance.next()))
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
        proof: proof, policy: policy, transferBlocks: chance.between(1...4), bug: bug),
      control: control, chain: chain, fabrics: node.fabrics,
      fault: { [unowned self] _ in drawTransferFault() })
    node.engine = engine
    engine.setClock(node.localTime(now))
    for other in nodes { if let store = other.store { publish(store, to: node) } }
    control.send = { [unowned self, unowned engine] call, store, request in
      sendCall(from: engine, call, to: store, request)
    }
    control.wakeAt = { [unowned self, unowned engine] call, at in
      planLocal(engine, at: at) { engine.control.timedOut(call) }
    }
    control.renewAt = { [unowned self, unowned engine] lease, at in
      planLocal(engine, at: at) { engine.control.renew(lease) }
    }
    control.attach = { [unowned self, unowned engine] source, isLocal in
      guard let store = storesEver[source.incarnation] else { return }
      for (rank, pump) in engine.pumps.enumerated() {
        pump.post(
          .attach(
            isLocal ? store.localSource : store.source,
            .mapped(store.pools[rank].region, owner: store)))
      }
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
    for name in nodes.map(\.name) { beat(engine, name) }
    ring(engine)
  }

  func killEngine(_ node: SimNode) {
    guard let engine = node.engine else { return }
    engine.isAlive = false
    for pump in engine.pumps {
      pump.onOrder = {}
      pump.core.shutDown()
    }
    engine.control.cutOff()
    // A killed process gives nothing back; here its values must end all the same.
    engine.connector.shutDown(at: engine.now)
    node.engine = nil
    node.fabrics = []
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
        planFor(engine, at: engine.pausedUntil, body)
        return
      }
      engine.setClock(nodes[engine.worker].localTime(now))
      body()
    }
    queue.insert(turn, due: time)
  }

  private func beat(_ engine: SimEngine, _ store: String) {
    let pause = engine.control.beat(store)
    planLocal(engine, at: engine.now + pause) { [unowned self, unowned engine] in
      beat(engine, store)
    }
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

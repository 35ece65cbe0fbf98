import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import TransferRig

/// Requests arrive, faults happen, and at the end everything heals.
extension SimWorld {
  // MARK: Requests

  func planArrival() {
    plan(after: chance.duration(.microseconds(200)...(.milliseconds(12)))) { [unowned self] in
      guard !isHealed else { return }
      arrive()
      planArrival()
    }
  }

  /// Three texts, prefixes of them, and prefixes with an end of their own.
  private func drawPrompt() -> [Int32] {
    let text = chance.below(3)
    let count = chance.between(6...64)
    var prompt = (0..<count).map { Int32(($0 * (text + 3) + text * 17) % 90) }
    if chance.happens(0.3) { prompt += [Int32(chance.below(90)), Int32(text)] }
    return prompt
  }

  private func arrive() {
    let node = chance.pick(nodes)
    let prompt = drawPrompt()
    let hintDraw = chance.unit()
    let other = chance.pick(nodes)
    let generateMax = chance.between(1...Golden.generateMax)
    guard let engine = node.engine, engine.running.count < 6 else { return }
    // A worker that has forgotten what it computed: it reloads from its store, or pulls from a peer.
    let forgets = chance.unit()
    if forgets < 0.5 { engine.engine.dropCache() }
    if forgets < 0.05 { _ = node.store?.memory.ledger.pool.evictUnpinned() }
    let name = hintDraw < 0.8 ? other.name : "nobody"
    let hint =
      hintDraw < 0.9
      ? try? Hint(version: 1, store: name.text, blocksMax: nil, limits: limits) : nil
    let id = RequestID(requestNext)
    requestNext += 1
    _ = golden.answer(prompt)
    planFor(engine, at: now) { [unowned self, unowned engine] in
      do throws(RequestError) {
        try engine.engine.submit(
          RequestSpec(
            id: id, prompt: prompt, generateMax: generateMax, hint: hint, ignoresEnd: true))
        engine.running[id] = (prompt, generateMax)
        stats.requests += 1
        planStep(engine, at: max(now + 5_000, engine.busyUntil))
      } catch {
        // It could never fit this G1: a refusal, not a fault.
        if case .needsTooManyBlocks = error { return }
        violate(.recomputeIsNormal, "\(id) was refused: \(error)")
      }
    }
  }

  // MARK: Faults

  func planAmbient() {
    plan(after: chance.duration(.milliseconds(3)...(.milliseconds(40)))) { [unowned self] in
      guard !isHealed else { return }
      let (kind, probability) = chance.pick(weights.ambient)
      if chance.happens(probability) { happen(kind) }
      planAmbient()
    }
  }

  private func happen(_ kind: Weights.Ambient) {
    let node = chance.pick(nodes)
    stats.faults += 1
    switch kind {
    case .partition: partition(node)
    case .clog:
      clogFactor = chance.between(2...40)
      plan(after: chance.duration(.milliseconds(20)...(.milliseconds(300)))) { [unowned self] in
        clogFactor = 1
      }
    case .storeCrash:
      // Often its machine goes with it: no socket is closed, and nobody hears of its death.
      if chance.happens(0.8) { for other in nodes { cut(node, other) } }
      killStore(node)
      stats.restarts += 1
      plan(after: chance.duration(.milliseconds(10)...(.milliseconds(250)))) { [unowned self] in
        if node.store == nil { startStore(node) }
      }
    case .engineCrash:
      killEngine(node)
      stats.restarts += 1
      plan(after: chance.duration(.milliseconds(10)...(.milliseconds(250)))) { [unowned self] in
        if node.engine == nil { startEngine(node) }
      }
    case .enginePause:
      // Sometimes longer than any deadline of anybody.
      let most: Duration = chance.happens(0.2) ? .seconds(5) : .milliseconds(600)
      if let engine = node.engine {
        pause(engine, for: chance.duration(.milliseconds(10)...most))
      }
      stats.pauses += 1
    case .engineGhost: leaveGhost(node)
    case .hostVanish: vanish(node)
    case .storeStop: stop(node)
    case .clockJump:
      node.jump += chance.duration(.milliseconds(5)...(.milliseconds(500))).nanoseconds
    case .evictionStorm: _ = node.store?.memory.ledger.pool.evictUnpinned()
    case .cancel: cancelOne(node)
    case .renewalsDropped:
      guard let control = node.engine?.control else { return }
      control.setRenewals(dropped: true)
      plan(after: chance.duration(.milliseconds(100)...(.milliseconds(1500)))) {
        control.setRenewals(dropped: false)
      }
    }
  }

  /// An engine is stopped and given up; another of its name takes its place and its store. The old one
  /// goes on later, whatever it had in its hands.
  private func leaveGhost(_ node: SimNode) {
    guard let engine = node.engine, node.ghost == nil else { return }
    stats.ghosts += 1
    stats.restarts += 1
    pause(engine, for: chance.duration(.milliseconds(100)...(.seconds(6))))
    node.ghost = engine
    node.engine = nil
    node.fabrics = []
    startEngine(node)
    plan(after: chance.duration(.seconds(1)...(.seconds(8)))) { [unowned self] in
      killGhost(node)
    }
  }

  /// A host is gone without a word: its store neither answers nor refuses. It comes back as another.
  private func vanish(_ node: SimNode) {
    guard let store = node.store, !store.hasVanished else { return }
    stats.vanishings += 1
    store.hasVanished = true
    for other in nodes { refreshReach(other) }
    killEngine(node)
    plan(after: chance.duration(.milliseconds(200)...(.seconds(4)))) { [unowned self] in
      if node.store === store { killStore(node, silently: true) }
      if node.store == nil { startStore(node) }
      if node.engine == nil { startEngine(node) }
    }
  }

  private func partition(_ node: SimNode) {
    cut(node, chance.pick(nodes))
  }

  private func cut(_ node: SimNode, _ other: SimNode) {
    guard other !== node else { return }
    let pair = [min(node.index, other.index), max(node.index, other.index)]
    partitions.insert(pair)
    refreshReach(node)
    refreshReach(other)
    plan(after: chance.duration(.milliseconds(20)...(.milliseconds(900)))) { [unowned self] in
      partitions.remove(pair)
      refreshReach(node)
      refreshReach(other)
    }
  }

  private func stop(_ node: SimNode) {
    guard let store = node.store, !store.isStopped else { return }
    store.isStopped = true
    for other in nodes { refreshReach(other) }
    // Sometimes for good: then only its death, or the end of the world, ends it.
    guard chance.happens(0.7) else { return }
    plan(after: chance.duration(.milliseconds(20)...(.milliseconds(1200)))) { [unowned self] in
      if node.store === store { resume(node) }
    }
  }

  private func resume(_ node: SimNode) {
    guard let store = node.store, store.isStopped else { return }
    store.isStopped = false
    for other in nodes { refreshReach(other) }
    let held = node.held
    node.held = []
    for deliver in held { deliver() }
  }

  private func cancelOne(_ node: SimNode) {
    guard let engine = node.engine, let id = engine.running.keys.min() else { return }
    stats.cancels += 1
    planFor(engine, at: now) { [unowned self, unowned engine] in
      guard engine.running[id] != nil else { return }
      engine.cancelled.insert(id)
      engine.engine.cancel(id)
      planStep(engine, at: max(now + 5_000, engine.busyUntil))
    }
  }

  // MARK: The end

  func heal() {
    isHealed = true
    partitions = []
    clogFactor = 1
    for node in nodes {
      killGhost(node)
      if node.store?.hasVanished == true { killStore(node) }
      if node.store == nil { startStore(node) }
      if node.engine == nil { startEngine(node) }
      resume(node)
      if let engine = node.engine { goOn(engine) }
      node.engine?.control.setRenewals(dropped: false)
    }
    for node in nodes {
      refreshReach(node)
      guard let engine = node.engine else { continue }
      engine.setClock(node.localTime(now))
      for (rank, pump) in engine.pumps.enumerated() {
        pump.faulty.resumeHung(at: engine.now)
        planTurn(engine, rank, after: .microseconds(10))
      }
    }
  }
}

import KVTransfer
import RemoteG2Core
import TransferRig

/// Calls cross a network that loses, delays, repeats, cuts and lies.
extension SimWorld {
  func isPartitioned(_ a: Int, _ b: Int) -> Bool { partitions.contains([min(a, b), max(a, b)]) }

  private func node(_ name: PeerName) -> SimNode? { nodes.first { $0.name == name } }

  private func delay(_ isLocal: Bool) -> Duration {
    if isLocal || isHealed { return chance.duration(.microseconds(20)...(.microseconds(300))) }
    return chance.duration(.microseconds(50)...weights.delayMax) * clogFactor
  }

  func sendCall(from engine: SimEngine, _ call: CallID, to store: PeerName, _ request: PeerCall) {
    guard let target = node(store) else { return }
    if !isHealed, chance.happens(weights.loss) { return }
    let copies = !isHealed && chance.happens(weights.duplication) ? 2 : 1
    for _ in 0..<copies {
      plan(after: delay(false)) { [unowned self] in
        deliver(from: engine, call, to: target, request)
      }
    }
  }

  private func deliver(
    from engine: SimEngine, _ call: CallID, to target: SimNode, _ request: PeerCall
  ) {
    if isPartitioned(engine.worker, target.index) { return }
    guard let store = target.store else {
      tell(engine, from: target) { $0.failed(call, .refused) }
      return
    }
    if store.hasVanished { return }
    if store.isStopped {
      target.held.append { [unowned self] in
        deliver(from: engine, call, to: target, request)
      }
      return
    }
    var answer = store.answer(request, at: target.localTime(now))
    if case .resolve(_, let keys, _) = request, case .resolved(.granted(let grant)) = answer {
      stats.pulls += 1
      checkGrant(grant, keys, of: store)
    }
    if !isHealed, chance.happens(weights.hostile) { answer = lie(answer) }
    tell(engine, from: target) { $0.answered(call, answer) }
  }

  private func tell(
    _ engine: SimEngine, from target: SimNode, _ event: @escaping (SimControl) -> Void
  ) {
    if !isHealed, chance.happens(weights.loss) { return }
    let copies = !isHealed && chance.happens(weights.duplication) ? 2 : 1
    for _ in 0..<copies {
      let time = now + delay(false).nanoseconds
      planFor(engine, at: time) { [unowned self, unowned engine] in
        if isPartitioned(engine.worker, target.index) { return }
        event(engine.control)
      }
    }
  }

  // MARK: The own store's connections

  /// Gives a link its way: in order, each message a moment after the one before, held while the receiver
  /// is stopped.
  func carry(_ link: MemoryLink, of engine: SimEngine, _ store: SimStore, _ node: SimNode) {
    var last: [MemoryLink.Direction: Int64] = [:]
    link.carry = { [unowned self, weak engine, unowned store, unowned node] direction, deliver in
      // The engine's process is gone, and with it what was on its way.
      guard let engine else { return }
      let time = max(now + delay(true).nanoseconds, (last[direction] ?? 0) + 1)
      last[direction] = time
      switch direction {
      case .toStore:
        queue.insert({ [unowned self] in toStore(store, node, deliver) }, due: time)
      case .toEngine: planFor(engine, at: time, deliver)
      }
    }
  }

  private func toStore(_ store: SimStore, _ node: SimNode, _ deliver: @escaping () -> Void) {
    // What was on its way to a dead process is nobody's.
    guard node.store === store else { return }
    guard store.isReachable else {
      node.held.append { [unowned self] in toStore(store, node, deliver) }
      return
    }
    deliver()
  }

  /// What a broken or hostile peer may say instead.
  private func lie(_ answer: PeerReply) -> PeerReply {
    stats.faults += 1
    switch answer {
    case .resolved(.granted(let grant)):
      let blocks = grant.blocks.map { block in
        switch chance.below(5) {
        case 0:
          return GrantedBlock(
            slot: SlotIndex(Int(Int32(truncatingIfNeeded: chance.next()))),
            generation: block.generation, digests: block.digests)
        case 1:
          return GrantedBlock(
            slot: block.slot, generation: block.generation &+ 1,
            digests: block.digests.map { _ in Digest128(high: 1, low: chance.next()) })
        case 2: return GrantedBlock(slot: SlotIndex(0), generation: 0, digests: [])
        default: return block
        }
      }
      switch chance.below(4) {
      case 0: return .resolved(.granted(Grant(lease: grant.lease, ttl: .zero, blocks: blocks)))
      case 1: return .resolved(.granted(Grant(lease: grant.lease, ttl: grant.ttl, blocks: [])))
      case 2:
        // More than was asked. (One block's slot and digest under another's name would be believed:
        // a source that lies about content consistently cannot be told from one that is right.)
        return .resolved(
          .granted(
            Grant(
              lease: grant.lease, ttl: grant.ttl,
              blocks: Array(repeating: blocks, count: 100).flatMap { $0 })))
      default:
        return .resolved(.granted(Grant(lease: grant.lease, ttl: grant.ttl, blocks: blocks)))
      }
    case .confirmed:
      return .confirmed(chance.happens(0.5) ? .intact(Int(Int32.max)) : .intact(-7))
    case .renewed: return .renewed(chance.happens(0.5) ? .gone : .renewed(ttl: .zero))
    // Somebody else behind its address, for a moment.
    case .introduction(let introduction) where chance.happens(0.5):
      return .introduction(
        Introduction(
          incarnation: Incarnation(using: &chance), name: "stranger",
          fingerprint: introduction.fingerprint, pools: introduction.pools,
          process: introduction.process))
    default: return .resolved(.refused(.invalid))
    }
  }

  // MARK: Transfers

  func drawTransferFault() -> TransferFault? {
    guard !isHealed else { return nil }
    for (fault, probability) in weights.transferFault where chance.happens(probability) {
      stats.faults += 1
      return fault
    }
    return nil
  }
}

import KVTransfer
import RemoteG2Core

/// Calls cross a network that loses, delays, repeats, cuts and lies.
extension SimWorld {
  func isPartitioned(_ a: Int, _ b: Int) -> Bool { partitions.contains([min(a, b), max(a, b)]) }

  private func node(_ name: String) -> SimNode? { nodes.first { $0.name == name } }

  private func delay(_ isLocal: Bool) -> Duration {
    if isLocal || isHealed { return chance.duration(.microseconds(20)...(.microseconds(300))) }
    return chance.duration(.microseconds(50)...weights.delayMax) * clogFactor
  }

  func sendCall(from engine: SimEngine, _ call: UInt64, to store: String, _ request: StoreCall) {
    guard let target = node(store) else { return }
    let isLocal = target.index == engine.worker
    if !isLocal, !isHealed, chance.happens(weights.loss) { return }
    let copies = !isLocal && !isHealed && chance.happens(weights.duplication) ? 2 : 1
    for _ in 0..<copies {
      plan(after: delay(isLocal)) { [unowned self] in
        deliver(from: engine, call, to: target, request, isLocal)
      }
    }
  }

  private func deliver(
    from engine: SimEngine, _ call: UInt64, to target: SimNode, _ request: StoreCall,
    _ isLocal: Bool
  ) {
    if !isLocal, isPartitioned(engine.worker, target.index) { return }
    guard let store = target.store else {
      reply(.refused, to: engine, call, from: target, isLocal)
      return
    }
    if store.isStopped {
      target.held.append { [unowned self] in
        deliver(from: engine, call, to: target, request, isLocal)
      }
      return
    }
    var answer = store.answer(request, at: target.localTime(now))
    if case .resolve(let keys, _) = request, case .resolved(.granted(let grant)) = answer {
      if !isLocal { stats.pulls += 1 }
      checkGrant(grant, keys, of: store)
    }
    if !isLocal, !isHealed, chance.happens(weights.hostile) { answer = lie(answer) }
    reply(answer, to: engine, call, from: target, isLocal)
  }

  private func reply(
    _ answer: StoreReply, to engine: SimEngine, _ call: UInt64, from target: SimNode,
    _ isLocal: Bool
  ) {
    if !isLocal, !isHealed, chance.happens(weights.loss) { return }
    let copies = !isLocal && !isHealed && chance.happens(weights.duplication) ? 2 : 1
    for _ in 0..<copies {
      let time = now + delay(isLocal).nanoseconds
      planFor(engine, at: time) { [unowned self, unowned engine] in
        if !isLocal, isPartitioned(engine.worker, target.index) { return }
        engine.control.received(answer, to: call)
      }
    }
  }

  /// What a broken or hostile peer may say instead.
  private func lie(_ answer: StoreReply) -> StoreReply {
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
            digests: [Digest128(high: 1, low: chance.next())])
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
    case .introduction: return .done
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

import KVTransfer
import RemoteG2Core

/// A store process: the shipped ledger, desk and pool writer, and nothing that computes.
final class SimStore: @unchecked Sendable {
  // @unchecked: one simulation, one thread.
  let name: PeerName
  let incarnation: Incarnation
  let source: SourceID
  let memory: MemoryStore
  let fingerprint: Fingerprint
  var isStopped = false
  /// Its host is gone: nothing of it answers, and nothing refuses.
  var hasVanished = false
  var isReachable: Bool { !isStopped && !hasVanished }

  var ledger: StoreLedger { memory.ledger }

  init(
    name: PeerName, incarnation: Incarnation, fingerprint: Fingerprint, slotCount: Int,
    blockBytes: Int, limits: Limits
  ) {
    self.name = name
    self.incarnation = incarnation
    self.fingerprint = fingerprint
    source = .peer(name: name, incarnation)
    memory = MemoryStore(
      incarnation: incarnation, fingerprint: fingerprint, slotCount: slotCount,
      blockBytes: blockBytes, limits: limits)
  }

  func answer(_ call: PeerCall, at now: LocalInstant) -> PeerReply {
    switch call {
    case .handshake:
      return .introduction(
        Introduction(
          incarnation: incarnation, name: name, fingerprint: fingerprint,
          pools: memory.pools.map {
            RankPool(
              metadata: [1], address: 0, slotCount: $0.memory.region.blockCount,
              blockBytes: $0.memory.region.blockBytes)
          }, process: 1))
    case .resolve(let lease, let keys, let ttl):
      return .resolved(memory.ledger.resolve(keys, as: lease, ttl: ttl, at: now))
    case .renew(let lease, let ttl): return .renewed(memory.ledger.renew(lease, ttl: ttl, at: now))
    case .confirm(let lease): return .confirmed(memory.ledger.confirm(lease, at: now))
    case .release(let lease): return .released(memory.ledger.release(lease, at: now))
    }
  }
}

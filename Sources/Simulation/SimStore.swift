import ContentDigest
import KVTransfer
import RemoteG2Core

/// A store process: the shipped ledger, pools that outlive it in its engine's mapping, and nothing
/// that computes.
final class SimStore: @unchecked Sendable {
  // @unchecked: one simulation, one thread.
  let name: String
  let incarnation: Incarnation
  let source: SourceID
  var ledger: StoreLedger
  /// One per rank.
  let pools: [BlockMemory]
  var isStopped = false

  init(
    name: String, incarnation: Incarnation, slotCount: Int, rankCount: Int, blockBytes: Int,
    limits: Limits
  ) {
    self.name = name
    self.incarnation = incarnation
    source = .peer(name: name, incarnation)
    ledger = StoreLedger(
      incarnation: incarnation, slotCount: slotCount, rankCount: rankCount, limits: limits)
    pools = (0..<rankCount).map { _ in
      BlockMemory(blockBytes: blockBytes, blockCount: slotCount)
    }
  }

  /// The same pool as its own engine names it.
  var localSource: SourceID { .local(incarnation) }

  func answer(_ call: StoreCall, at now: LocalInstant) -> StoreReply {
    switch call {
    case .handshake: return .introduction(incarnation)
    case .resolve(let keys, let wanted):
      guard wanted == incarnation else { return .resolved(.refused(.gone)) }
      return .resolved(ledger.resolve(keys, ttl: nil, at: now))
    case .renew(let lease): return .renewed(ledger.renew(lease, ttl: nil, at: now))
    case .confirm(let lease): return .confirmed(ledger.confirm(lease, at: now))
    case .release(let lease):
      _ = ledger.release(lease, at: now)
      return .done
    case .reserve(let keys, let wanted):
      guard wanted == incarnation else { return .reserved(keys.map { _ in .full }) }
      let deadline = now + ledger.limits.reservationMax
      return .reserved(keys.map { ledger.pool.reserve($0, until: deadline) })
    case .seal(let saved, let rank, let wanted):
      guard wanted == incarnation else { return .done }
      for block in saved {
        guard let digest = block.digest else { continue }
        _ = ledger.pool.seal(
          block.save.slot, generation: block.save.generation, rank: rank, digest: digest)
      }
      return .done
    }
  }
}

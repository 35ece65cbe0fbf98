internal import Glibc
package import LocalStore
package import OSThreads
internal import RemoteG2Control
package import RemoteG2Core
internal import Synchronization

/// What a store is started with.
package struct StoreConfiguration: Sendable {
  package var name: String
  package var fingerprint: Fingerprint
  package var slotCount: Int
  package var blockBytes: Int
  package var rankCount: Int
  package var limits: Limits

  package init(
    name: String, fingerprint: Fingerprint, slotCount: Int, blockBytes: Int, rankCount: Int,
    limits: Limits
  ) {
    self.name = name
    self.fingerprint = fingerprint
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.rankCount = rankCount
    self.limits = limits
  }
}

/// The store's state as its peers see it: one lock around one ledger, held for microseconds and shared with
/// the service of its own engines.
package final class StoreService: StoreBackend {
  package let incarnation: Incarnation
  private let configuration: StoreConfiguration
  private let pools: [PoolMemory]
  /// What peers read from: nil while the serving agent is being made, empty without NIXL.
  private let announced: Mutex<[RankPool]?>
  package let ledger: Guarded<StoreLedger>

  /// - Parameter willServePeers: ``serve(_:)`` follows.
  package init(
    _ configuration: StoreConfiguration, incarnation: Incarnation, pools: [PoolMemory],
    willServePeers: Bool
  ) {
    precondition(pools.count == configuration.rankCount, "one pool per rank")
    self.configuration = configuration
    self.incarnation = incarnation
    self.pools = pools
    announced = Mutex(willServePeers ? nil : [])
    ledger = Guarded(
      StoreLedger(
        incarnation: incarnation, slotCount: configuration.slotCount,
        rankCount: configuration.rankCount, limits: configuration.limits))
  }

  // MARK: For peers

  /// The serving agent is there: peers may read.
  package func serve(_ metadata: [UInt8]) {
    let pools = pools.map {
      RankPool(
        metadata: metadata, address: UInt64(UInt(bitPattern: $0.base)), slotCount: $0.slotCount,
        blockBytes: $0.blockBytes)
    }
    announced.withLock { $0 = pools }
  }

  package func introduce(to fingerprint: Fingerprint) -> Introduction? {
    guard let announced = announced.withLock({ $0 }) else { return nil }
    let isCompatible = configuration.fingerprint.mismatch(with: fingerprint) == nil
    return Introduction(
      incarnation: incarnation, name: PeerName(configuration.name),
      fingerprint: configuration.fingerprint, pools: isCompatible ? announced : [],
      process: getpid())
  }

  package func resolve(
    _ keys: [BlockKey], as lease: LeaseID, ttl: Duration?
  ) -> ResolveAnswer {
    ledger.withLock { $0.resolve(keys, as: lease, ttl: ttl, at: MonotonicClock.now()) }
  }

  package func renew(_ lease: LeaseID, ttl: Duration?) -> RenewAnswer {
    ledger.withLock { $0.renew(lease, ttl: ttl, at: MonotonicClock.now()) }
  }

  package func confirm(_ lease: LeaseID) -> ConfirmAnswer {
    ledger.withLock { $0.confirm(lease, at: MonotonicClock.now()) }
  }

  package func release(_ lease: LeaseID) -> ReleaseAnswer {
    ledger.withLock { $0.release(lease, at: MonotonicClock.now()) }
  }

  package func stats() -> (Incarnation, StoreStats) {
    (incarnation, ledger.withLock { $0.stats })
  }

  // MARK: For the process

  /// Ends what is due. Call it at least once per `next` and TTL.
  ///
  /// - Returns: When there will be something to do, if nothing else happens.
  package func expireDue() -> LocalInstant? {
    ledger.withLock { ledger in
      ledger.expireDue(at: MonotonicClock.now())
      return ledger.nextDeadline
    }
  }
}

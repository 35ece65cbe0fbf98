internal import Glibc
internal import NIXL
internal import OSThreads
package import RemoteG2Control
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

/// The store's state behind its services: one lock around one ledger, held for microseconds.
package final class StoreService: StoreBackend {
  package let incarnation: Incarnation
  private let configuration: StoreConfiguration
  private let pools: [PoolMemory]
  /// What peers read from: nil while the serving agent is being made, empty without NIXL.
  private let announced: Mutex<[RankPool]?>
  private let ledger: Mutex<StoreLedger>
  /// When the local engine last called.
  private let lastLocalCall: Mutex<LocalInstant>

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
    ledger = Mutex(
      StoreLedger(
        incarnation: incarnation, slotCount: configuration.slotCount,
        rankCount: configuration.rankCount, limits: configuration.limits))
    lastLocalCall = Mutex(MonotonicClock.now())
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
      incarnation: incarnation, name: configuration.name,
      fingerprint: configuration.fingerprint, pools: isCompatible ? announced : [],
      process: getpid())
  }

  package func resolve(
    _ keys: [BlockKey], by incarnation: Incarnation, ttl: Duration?
  ) -> ResolveAnswer {
    // Meant for the store that was here before.
    guard incarnation == self.incarnation else { return .refused(.gone) }
    return ledger.withLock { $0.resolve(keys, ttl: ttl, at: MonotonicClock.now()) }
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

  // MARK: For the local engine

  package func attach() -> Attachment {
    noteLocalCall()
    return Attachment(
      incarnation: incarnation, process: getpid(), fingerprint: configuration.fingerprint,
      descriptors: pools.map(\.descriptor), slotCount: configuration.slotCount,
      blockBytes: configuration.blockBytes, headerBytes: PoolMemory.headerBytes)
  }

  package func reserve(_ keys: [BlockKey], by incarnation: Incarnation) -> [Reservation] {
    noteLocalCall()
    guard incarnation == self.incarnation else { return keys.map { _ in .full } }
    let now = MonotonicClock.now()
    let deadline = now + configuration.limits.reservationMax
    return ledger.withLock { ledger in
      keys.map { ledger.pool.reserve($0, until: deadline) }
    }
  }

  package func seal(_ slots: [SealedSlot], rank: Int, by incarnation: Incarnation) -> Int {
    noteLocalCall()
    guard incarnation == self.incarnation else { return 0 }
    return ledger.withLock { ledger in
      slots.count {
        ledger.pool.seal($0.slot, generation: $0.generation, rank: rank, digest: $0.digest)
      }
    }
  }

  package func evictUnpinned() -> Int {
    noteLocalCall()
    return ledger.withLock { $0.pool.evictUnpinned() }
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

  package func timeSinceLocalCall() -> Duration {
    MonotonicClock.now() - lastLocalCall.withLock { $0 }
  }

  private func noteLocalCall() { lastLocalCall.withLock { $0 = MonotonicClock.now() } }
}

package import RemoteG2Core

/// A rank's pool as its store announces it to peers.
package struct RankPool: Equatable, Sendable {
  package let metadata: [UInt8]
  package let address: UInt64
  package let slotCount: Int
  package let blockBytes: Int

  package init(metadata: [UInt8], address: UInt64, slotCount: Int, blockBytes: Int) {
    self.metadata = metadata
    self.address = address
    self.slotCount = slotCount
    self.blockBytes = blockBytes
  }
}

/// A store's side of a handshake. The pools are only there for an equal fingerprint.
package struct Introduction: Equatable, Sendable {
  package let incarnation: Incarnation
  package let name: String
  package let fingerprint: Fingerprint
  package let pools: [RankPool]
  package let process: Int32

  package init(
    incarnation: Incarnation, name: String, fingerprint: Fingerprint, pools: [RankPool],
    process: Int32
  ) {
    self.incarnation = incarnation
    self.name = name
    self.fingerprint = fingerprint
    self.pools = pools
    self.process = process
  }
}

/// Where a store's pools are, for the engine beside it.
package struct Attachment: Equatable, Sendable {
  package let incarnation: Incarnation
  package let process: Int32
  package let fingerprint: Fingerprint
  package let descriptors: [Int32]
  package let slotCount: Int
  package let blockBytes: Int
  package let headerBytes: Int

  package init(
    incarnation: Incarnation, process: Int32, fingerprint: Fingerprint, descriptors: [Int32],
    slotCount: Int, blockBytes: Int, headerBytes: Int
  ) {
    self.incarnation = incarnation
    self.process = process
    self.fingerprint = fingerprint
    self.descriptors = descriptors
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.headerBytes = headerBytes
  }
}

/// One rank's finished copy, as it is told to the store.
package struct SealedSlot: Equatable, Sendable {
  package let slot: SlotIndex
  package let generation: UInt32
  package let digest: Digest128

  package init(slot: SlotIndex, generation: UInt32, digest: Digest128) {
    self.slot = slot
    self.generation = generation
    self.digest = digest
  }
}

/// What a store answers. Every call returns at once: a store never computes and never waits.
package protocol StoreBackend: Sendable {
  /// Nil while the agent that serves peers is still being made.
  func introduce(to fingerprint: Fingerprint) -> Introduction?
  /// A nil incarnation in a request means "whoever you are".
  func resolve(_ keys: [BlockKey], by incarnation: Incarnation, ttl: Duration?) -> ResolveAnswer
  func renew(_ lease: LeaseID, ttl: Duration?) -> RenewAnswer
  func confirm(_ lease: LeaseID) -> ConfirmAnswer
  func release(_ lease: LeaseID) -> ReleaseAnswer
  func stats() -> (Incarnation, StoreStats)
  // For the local engine.
  func attach() -> Attachment
  func reserve(_ keys: [BlockKey], by incarnation: Incarnation) -> [Reservation]
  func seal(_ slots: [SealedSlot], rank: Int, by incarnation: Incarnation) -> Int
  func evictUnpinned() -> Int
}

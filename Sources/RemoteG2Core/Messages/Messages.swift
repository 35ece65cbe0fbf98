/// One block of a grant: where it is, which write of that slot it is, and what it must hash to.
public struct GrantedBlock: Equatable, Sendable {
  public let slot: SlotIndex
  public let generation: UInt32
  /// One per rank. Nil where the writer gave none.
  public let digests: [Digest128?]

  public init(slot: SlotIndex, generation: UInt32, digests: [Digest128?]) {
    self.slot = slot
    self.generation = generation
    self.digests = digests
  }
}

/// A store's promise to keep the longest sealed prefix it could pin, for `ttl` from its answer.
public struct Grant: Equatable, Sendable {
  public let lease: LeaseID
  /// A duration: the owner's clock never leaves the owner.
  public let ttl: Duration
  public let blocks: [GrantedBlock]

  public init(lease: LeaseID, ttl: Duration, blocks: [GrantedBlock]) {
    self.lease = lease
    self.ttl = ttl
    self.blocks = blocks
  }
}

/// What a pool has for a block that is to be written.
public enum Reservation: Equatable, Sendable {
  case reserved(SlotIndex, generation: UInt32)
  /// The block is here, or being written.
  case present
  /// Every slot is pinned or being written.
  case full
}

/// Why a store gave no grant.
public enum Refusal: String, Error, Equatable, Sendable, CaseIterable {
  /// It does not have the first block: never had it, or has evicted it. The same answer goes to a question
  /// for another incarnation, and to one under a lease that has ended. Asking again at once is of no use.
  case gone
  /// Leases or pins are at their limit. The store is well; asking later may succeed.
  case overBudget
  /// The request itself is malformed: no keys, or more than the limit.
  case invalid
}

public enum ResolveAnswer: Equatable, Sendable {
  case granted(Grant)
  case refused(Refusal)
}

/// A store's answer about a lease. Never silence: an unknown lease is `gone`.
public enum RenewAnswer: Equatable, Sendable {
  case renewed(ttl: Duration)
  case gone
}

/// How many leading granted blocks have kept their bytes since the grant.
public enum ConfirmAnswer: Equatable, Sendable {
  case intact(Int)
  case gone
}

public enum ReleaseAnswer: Equatable, Sendable {
  case released
  /// Released before, or expired. A repeated release is not an error.
  case alreadyEnded
  case gone
}

/// A store's own account of itself. `free + writing + sealed` is the pool.
public struct StoreStats: Equatable, Sendable {
  public var slots = 0
  public var free = 0
  public var writing = 0
  public var sealed = 0
  public var pinned = 0
  public var leases = 0
  /// Blocks that engines have staged and that are not in the pool yet.
  public var staged = 0
  public var granted: UInt64 = 0
  public var released: UInt64 = 0
  public var expired: UInt64 = 0
  public var evicted: UInt64 = 0

  public init() {}

  mutating func add(_ other: StoreStats) {
    slots += other.slots
    free += other.free
    writing += other.writing
    sealed += other.sealed
    pinned += other.pinned
    leases += other.leases
    staged += other.staged
    granted += other.granted
    released += other.released
    expired += other.expired
    evicted += other.evicted
  }
}

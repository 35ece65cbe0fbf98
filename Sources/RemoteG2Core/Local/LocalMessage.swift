/// What an engine and its own store say to each other, over one connection for the engine's leader and
/// one for each of its ranks. A connection belongs to one incarnation of the store, so no answer of one
/// can be taken for an answer of another.
///
/// A block is saved in two acts: every rank **stages** its bytes into memory of its own connection,
/// and the leader **commits** the key. Nobody but the store writes a pool.
public enum LocalMessage: Equatable, Sendable {
  /// Of this protocol; a store refuses another by name.
  public static let version: UInt32 = 3

  // MARK: From the engine

  /// The first message of every connection.
  case hello(LocalHello)
  /// The leader wants the longest sealed prefix of these keys. Long lists come in pages.
  case lookup(lease: UInt64, keys: [BlockKey], isLast: Bool)
  /// As `lookup`, but what the store lacks and other members have may be fetched first. Answered by `pending`
  /// when that is so, and by `found` or `notFound` in the end. `pace`: what computing one block takes; zero:
  /// not known.
  case want(lease: UInt64, keys: [BlockKey], isLast: Bool, pace: Duration)
  case release(lease: UInt64)
  /// The leader could save these. Answered by `wanted`.
  case offer(batch: UInt64, keys: [BlockKey])
  /// A rank has copied blocks into its staging memory.
  case staged([StagedBlock])
  /// Their content is final, and rests on what all ranks have.
  case commit([CommittedBlock])
  /// They will not be committed: some rank could not stage them.
  case withdraw([BlockKey])
  /// Whatever was staged in this step or before it, and is not committed by now, will not be.
  case settled(step: UInt64)
  /// Evict every block that nobody pins.
  case evict(UInt64)
  case stats(UInt64)
  /// What a node says of itself. Whoever may connect may ask, without a hello.
  case report(UInt64)
  case ping(UInt64)

  // MARK: From the store

  /// For a rank it comes with two descriptors: its pool, to be mapped for reading, and its staging
  /// memory.
  case welcome(LocalWelcome)
  /// Why this engine cannot use this store. The connection ends.
  case refused(String)
  case found(lease: UInt64, blocks: [GrantedBlock], isLast: Bool)
  case notFound(lease: UInt64, Refusal)
  /// What was wanted is being fetched.
  case pending(lease: UInt64)
  /// Of the offered keys, the places of those that the store lacks.
  case wanted(batch: UInt64, [UInt32])
  /// These staging slots may be written again.
  case freed([UInt32])
  /// What became of committed blocks.
  case saved([SaveOutcome])
  case evicted(UInt64, count: Int)
  case statsAnswer(UInt64, StoreStats)
  case pong(UInt64)
  /// A page of the report, as JSON.
  case reported(UInt64, String, isLast: Bool)
}

/// Who opens a connection.
public struct LocalHello: Equatable, Sendable {
  public enum Role: Equatable, Sendable {
    case leader
    case rank(Int)
  }
  public var version: UInt32
  /// Of the engine: drawn by its leader, the same for all its ranks.
  public var engine: Incarnation
  public var role: Role
  public var fingerprint: Fingerprint
  /// Blocks that a rank wants to be able to stage at once.
  public var stagingSlots: Int
  /// Of one block on one rank: a store that has no pool for the engine makes one of such blocks. 0: the store
  /// knows.
  public var blockBytes: Int
  /// Of a rank: the first step in which it may stage over this connection; 0 for an engine that offers first.
  public var step: UInt64

  public init(
    version: UInt32 = LocalMessage.version, engine: Incarnation, role: Role,
    fingerprint: Fingerprint, stagingSlots: Int, blockBytes: Int = 0, step: UInt64 = 0
  ) {
    self.blockBytes = blockBytes
    self.step = step
    self.version = version
    self.engine = engine
    self.role = role
    self.fingerprint = fingerprint
    self.stagingSlots = stagingSlots
  }
}

/// What a store is.
public struct LocalWelcome: Equatable, Sendable {
  public var store: Incarnation
  public var slotCount: Int
  public var blockBytes: Int
  public var rankCount: Int
  /// At most what was asked for; none for a leader.
  public var stagingSlots: Int

  public init(
    store: Incarnation, slotCount: Int, blockBytes: Int, rankCount: Int, stagingSlots: Int
  ) {
    self.store = store
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.rankCount = rankCount
    self.stagingSlots = stagingSlots
  }
}

/// One rank's copy of a block, in a slot of its staging memory.
public struct StagedBlock: Equatable, Sendable {
  public var slot: UInt32
  public var key: BlockKey
  /// Of the engine; 0 for one that offers first.
  public var step: UInt64
  public init(slot: UInt32, key: BlockKey, step: UInt64 = 0) {
    self.slot = slot
    self.key = key
    self.step = step
  }
}

/// A block that the engine's leader vouches for.
public struct CommittedBlock: Equatable, Sendable {
  public var key: BlockKey
  /// The key before it in its chain; nil for the first. A block is evicted before those it follows.
  public var parent: BlockKey?
  /// Of a block that was pulled: its source's digests, one per rank. The copy must have them.
  public var digests: [Digest128]?
  /// In which all ranks have staged it; 0 for an engine that offers first.
  public var step: UInt64
  public init(key: BlockKey, parent: BlockKey?, digests: [Digest128]? = nil, step: UInt64 = 0) {
    self.step = step
    self.key = key
    self.parent = parent
    self.digests = digests
  }
}

/// What became of one committed block.
public struct SaveOutcome: Equatable, Sendable {
  public enum Kind: UInt8, Equatable, Sendable, CaseIterable {
    case sealed
    /// It was there already, or another engine was first.
    case present
    /// Every slot is pinned or being written.
    case full
    /// The copy does not have the digests that came with it.
    case wrongBytes
    /// Some rank's copy went with its connection.
    case lost
  }
  public var key: BlockKey
  public var kind: Kind
  public init(key: BlockKey, kind: Kind) {
    self.key = key
    self.kind = kind
  }
}

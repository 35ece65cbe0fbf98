/// Who a fetch reads from. Peer = address + incarnation, so a restarted store is another source.
public enum SourceID: Hashable, Codable, Sendable, CustomStringConvertible {
  case local(Incarnation)
  case peer(name: String, Incarnation)

  public var incarnation: Incarnation {
    switch self {
    case .local(let incarnation): incarnation
    case .peer(_, let incarnation): incarnation
    }
  }
  public var description: String {
    switch self {
    case .local: "local store"
    case .peer(let name, _): name
    }
  }
  public var isLocal: Bool { if case .local = self { true } else { false } }
}

/// One block to read: where it lands, and where it is.
public struct BlockMove: Equatable, Codable, Sendable {
  public let target: BlockIndex
  public let source: SlotIndex

  public init(target: BlockIndex, source: SlotIndex) {
    self.target = target
    self.source = source
  }
}

/// Where one rank's pool of a source is. A value that every rank can be told, whoever asked for it.
public enum SourceAddress: Equatable, Codable, Sendable {
  /// A peer's: its agent's framed metadata, and where its slots are in its own memory.
  case remote(metadata: [UInt8], address: UInt64, slotCount: Int, blockBytes: Int)
  /// On this machine: a memory file that a process has open.
  case mapped(process: Int32, descriptor: Int32, slotCount: Int, blockBytes: Int)
}

/// One order from the leader to every rank's worker half. It is all that a rank ever sees.
public enum RankOrder: Equatable, Codable, Sendable {
  case load(FetchID, from: SourceID, moves: [BlockMove])
  case stopPosting(FetchID)
  /// Compare the leading blocks with these digests, one list per rank.
  case checkDigests(FetchID, expected: [[Digest128?]])
  /// The fetch is closed: forget it.
  case forget(FetchID)
  case save([BlockSave])
  /// This incarnation is proved dead: its agent may be fenced.
  case sourceDied(SourceID)
  /// Get ready to read a source; one address for each rank. Answered by the report's `attached`.
  case attach(SourceID, [SourceAddress])
  /// Hold the peers' transfers of these ranks (nil: of all) to a rate, for demonstrations; nil: none.
  case pace(bytesPerSecond: Double?, transferBlocks: Int, ranks: [Int]?)
  /// Let transfers of these ranks go wrong in a named way, for demonstrations; nil: none does.
  case inject(fault: String?, ranks: [Int])
  /// Tell every transfer's moments, or stop to.
  case trace(Bool)
}

/// One sealed G1 block to copy into the local store's pool.
public struct BlockSave: Equatable, Codable, Sendable {
  public let block: BlockIndex
  public let slot: SlotIndex
  public let generation: UInt32
  public let store: Incarnation
  /// A pulled block keeps the grant's digests when it travels on, one per rank.
  public let digests: [Digest128?]?

  public init(
    block: BlockIndex, slot: SlotIndex, generation: UInt32, store: Incarnation,
    digests: [Digest128?]?
  ) {
    self.block = block
    self.slot = slot
    self.generation = generation
    self.store = store
    self.digests = digests
  }
}

/// A copy into the store's pool that ended. `digest` is nil when it could not be made.
public struct SavedBlock: Equatable, Codable, Sendable {
  public let save: BlockSave
  public let digest: Digest128?

  public init(save: BlockSave, digest: Digest128?) {
    self.save = save
    self.digest = digest
  }
}

/// What a rank's transfers are doing, and have done since it started.
public struct RankCounts: Equatable, Codable, Sendable {
  /// Posted, and neither landed nor quiet.
  public var transfersInFlight = 0
  public var bytesMoved: UInt64 = 0
  /// Of those, landed after their load was given up: nobody reads them.
  public var bytesLate: UInt64 = 0
  /// Transfers that went wrong because they were told to.
  public var faultsInjected = 0

  public init() {}
}

/// What one rank tells the leader at the end of a step.
public struct RankReport: Equatable, Codable, Sendable {
  public var rank: Int
  /// The plan it answers.
  public var sequence: UInt64
  public var progress: [FetchID: RankProgress] = [:]
  /// Target blocks of loads that failed, each reported once: the seed's
  /// `get_block_ids_with_load_errors`.
  public var loadErrors: [BlockIndex] = []
  public var saved: [SavedBlock] = []
  public var bytesMoved: [SourceID: MovedBytes] = [:]
  /// Sources this rank was told to attach, and whether it could.
  public var attached: [SourceID: Bool] = [:]
  public var counts = RankCounts()
  /// The rank's own clock when it reported; nil where it is the leader's. Only what lies between two of
  /// its instants means anything to another rank.
  public var at: LocalInstant?
  /// One for each digest the plan asked for, of this rank's part.
  public var kvDigests: [Digest128] = []

  public init(rank: Int, sequence: UInt64) {
    self.rank = rank
    self.sequence = sequence
  }

  public struct MovedBytes: Equatable, Codable, Sendable {
    public var bytes: Int
    public var duration: Duration
    public init(bytes: Int, duration: Duration) {
      self.bytes = bytes
      self.duration = duration
    }
  }
}

/// Who a fetch reads from: the own store, or a peer by its configured name; and which incarnation of it, so
/// that a restarted store is another source.
public enum SourceID: Hashable, Codable, Sendable, CustomStringConvertible {
  case local(Incarnation)
  case peer(name: PeerName, Incarnation)

  public var incarnation: Incarnation {
    switch self {
    case .local(let incarnation): incarnation
    case .peer(_, let incarnation): incarnation
    }
  }
  public var name: SourceName {
    switch self {
    case .local: .ownStore
    case .peer(let name, _): .peer(name)
    }
  }
  public var description: String { name.description }
  public var isLocal: Bool { if case .local = self { true } else { false } }
}

/// One block to read: where it lands, where it is, and which write of that slot it is.
public struct BlockMove: Equatable, Codable, Sendable {
  public let target: BlockIndex
  public let source: SlotIndex
  /// Compared with the slot's word by whoever reads it from a mapping.
  public let generation: UInt32

  /// - Parameter generation: 0, which no written slot has, is read by no reader of a mapping.
  public init(target: BlockIndex, source: SlotIndex, generation: UInt32 = 0) {
    self.target = target
    self.source = source
    self.generation = generation
  }
}

/// What a landed block must be: the digest of its bytes, seeded with its key and the rank.
public struct ExpectedBlock: Equatable, Codable, Sendable {
  public let key: BlockKey
  /// One per rank.
  public let digests: [Digest128?]

  public init(key: BlockKey, digests: [Digest128?]) {
    self.key = key
    self.digests = digests
  }
}

/// Where one rank's pool of a source is. A value that every rank can be told, whoever asked for it.
public enum SourceAddress: Equatable, Codable, Sendable {
  /// A peer's.
  case remote(RankPool)
  /// The own store's: where its socket is, and as whose rank to connect.
  case own(socket: String, engine: Incarnation)
}

/// One order from the leader to every rank's worker half. It is all that a rank ever sees.
public enum RankOrder: Equatable, Codable, Sendable {
  /// `stall`: how long nothing may land, by this rank's own clock and while its pump runs on time,
  /// before the rank reports it as stalled; nil: it cannot stall.
  case load(FetchID, from: SourceID, moves: [BlockMove], stall: Duration?)
  case stopPosting(FetchID)
  /// Compare the leading blocks with these.
  case checkDigests(FetchID, [ExpectedBlock])
  /// The fetch is closed: forget it.
  case forget(FetchID)
  /// Stage these blocks for the own store.
  case stage([BlockSave])
  /// This incarnation is dead, or given up after minutes of silence, or it is the own store and its
  /// connection has ended. The pump ends everything posted from it and lets its agent, or its mapping, go.
  case sourceDied(SourceID)
  /// Get ready to read a source; one address for each rank. Answered by the report's `attached`, under
  /// the same number: a source that was given up may be attached again, and an answer to the first order
  /// is none to the second.
  case attach(UInt64, SourceID, [SourceAddress])
  /// An order to the rig that a test or a demonstration has fastened to each rank's pump; it alone knows
  /// what the bytes mean. A rank without a rig ignores it.
  case rig([UInt8])
}

/// One sealed G1 block to copy into this rank's staging memory.
public struct BlockSave: Equatable, Codable, Sendable {
  public let block: BlockIndex
  public let key: BlockKey
  /// The store it is for. It goes to no other.
  public let store: Incarnation

  public init(block: BlockIndex, key: BlockKey, store: Incarnation) {
    self.block = block
    self.key = key
    self.store = store
  }
}

/// A block that this rank has staged, or could not stage. Its G1 block may change from now on.
public struct StagingResult: Equatable, Codable, Sendable {
  public let save: BlockSave
  public let isStaged: Bool

  public init(save: BlockSave, isStaged: Bool) {
    self.save = save
    self.isStaged = isStaged
  }
}

/// What a rank's transfers are doing, and have done since it started.
public struct RankCounts: Equatable, Codable, Sendable {
  /// Posted, and neither landed nor quiet.
  public var transfersInFlight = 0
  public var bytesMoved: UInt64 = 0
  /// Of those, landed after their load was given up: nobody reads them.
  public var bytesLate: UInt64 = 0
  /// What this rank's rig counts; 0 where there is none.
  public var rigCount = 0
  /// Blocks that were not staged: the store was away, or took nothing for too long.
  public var savesDropped: UInt64 = 0

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
  public var stagings: [StagingResult] = []
  /// Own stores whose connection to this rank has ended: nothing can be staged for them.
  public var unlinked: [Incarnation] = []
  public var bytesMoved: [SourceID: MovedBytes] = [:]
  /// By the order's number: sources this rank was told to attach, and whether it could.
  public var attached: [UInt64: Bool] = [:]
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

/// Why a request got fewer blocks from a source than it could have: nothing was asked, nothing was granted,
/// or not all that was granted was kept. A request can have several reasons. Each that is counted is told
/// once, with its source, in a ``FetchEvent``; a cancel, and an own store that has nothing, are not counted.
public enum FallbackReason: String, Error, Sendable, CaseIterable {
  /// The store does not have the first block that was asked for.
  case gone
  /// The store's leases or pins are at their limit.
  case overBudget
  /// The store called the question malformed, or its grant does not fit what was asked.
  case refused
  /// The handshake found a difference: the peer may not share with us.
  case incompatible
  /// The peer had not introduced itself, or not every rank could read it, within the time a request waits.
  case peerNotReady
  /// The hint names a store that is not a member.
  case unknownPeer
  /// The peer's breaker is open.
  case peerOff
  /// Too many target blocks may still be written, by this source or by all of them.
  case quarantineFull
  /// The source had not answered by the fetch's own deadline.
  case resolveTimedOut
  /// The control client had no connection to the source, or no answer from it in time.
  case unreachable
  /// The pull was estimated to take as long as computing, or longer.
  case slower
  /// The peer serves `fetchesPerPeerMax` of our fetches already.
  case busy
  /// The engine had no blocks to load into.
  case noBlocks
  /// `fetchesInFlightMax` fetches are open already.
  case tooManyFetches
  /// The request's local prefix changed: what was asked for or granted no longer follows it.
  case prefixMoved
  /// A transfer failed on some rank.
  case transferFailed
  /// The move was not over by its hard deadline.
  case hardDeadline
  /// The source died, or was given up.
  case peerDown
  /// Nothing landed on some rank for the load's `stall`, while that rank's own pump ran on time.
  case stalled
  /// At the pace seen so far the rest would come later than computing it.
  case outpaced
  /// Bytes came, but the source has reused some of the blocks and the digests say so.
  case notIntact
  /// The source said that the lease is over while blocks were still to be read.
  case leaseEnded
  case cancelled
  case connectorOff
}

/// Why a transfer did not end in success.
public enum TransferFailure: Error, Equatable, Codable, Sendable {
  /// The transport refused to start it. Nothing moves.
  case rejected(String)
  /// It started, and the backend reported an error. Other pieces of it may still be moving.
  case backend(String)
  /// The slot was written again before or during the copy: its word says so.
  case changed(SlotIndex)
  /// The transport does not know that source, or has lost it.
  case unknownSource
}

/// One rank's account of its part of a fetch, as of its last report.
public struct RankProgress: Equatable, Codable, Sendable {
  /// How far a rank has come with posting its transfers.
  public enum Posting: UInt8, Codable, Sendable {
    /// It has not been told to move anything.
    case idle
    /// It may post more: until it stops, ``RankProgress/unquiet`` is only a snapshot, and any block after
    /// ``RankProgress/landed`` may be written.
    case open
    /// It will post nothing more, because all is posted, a transfer failed or it was told to stop; something
    /// that it has posted is still under way.
    case stopped
    /// It will post nothing more, and every transfer that it posted has landed or failed.
    case ended
  }

  /// Leading blocks whose transfers ended in success.
  public var landed: Int
  public var posting: Posting
  /// The first failure of a transfer on this rank; nil while none has failed.
  public var failure: TransferFailure?
  /// Positions in the fetch whose transfers are posted and may still write: under way, or failed in a way
  /// that leaves pieces of them moving.
  public var unquiet: [Int]
  /// When a transfer last landed, by this rank's clock; nil when none has.
  public var lastLanding: LocalInstant?
  /// When nothing had landed for the load's `stall`, by this rank's clock and while its pump ran on time; nil
  /// while the load has not stalled.
  public var stalledAt: LocalInstant?
  /// From the first post to the last landing, without the time in which this rank's pump was late.
  public var active: Duration
  /// Of ``landed``, the leading blocks whose digests equal the grant's, once checked.
  public var proved: Int?

  public init(
    landed: Int = 0, posting: Posting = .idle, failure: TransferFailure? = nil, unquiet: [Int] = [],
    lastLanding: LocalInstant? = nil, stalledAt: LocalInstant? = nil, active: Duration = .zero,
    proved: Int? = nil
  ) {
    self.landed = landed
    self.posting = posting
    self.failure = failure
    self.unquiet = unquiet
    self.lastLanding = lastLanding
    self.stalledAt = stalledAt
    self.active = active
    self.proved = proved
  }

  /// Nothing is left to post, and every posted transfer landed or failed.
  public var isTerminal: Bool { posting == .ended }
  /// Nothing more will be posted.
  public var isStopped: Bool { posting == .stopped || posting == .ended }
  /// No transfer of this fetch will write on this rank again.
  public var isQuiet: Bool { posting == .idle || isStopped && unquiet.isEmpty }
}

/// The one result of a fetch, for the whole rank group.
public struct FetchResult: Equatable, Sendable {
  /// Leading blocks that are proved on every rank.
  public let valid: Int
  /// Blocks the fetch asked its ranks to move.
  public let matched: Int
  /// Positions that are not quiet on some rank: to be swapped for fresh blocks.
  public let unquiet: [Int]
  /// Nil when everything was kept.
  public let reason: FallbackReason?
  /// The last landing on any rank, as told to the machine: the connector gives it in the leader's time.
  public let lastLanding: LocalInstant?

  public init(
    valid: Int, matched: Int, unquiet: [Int] = [], reason: FallbackReason?,
    lastLanding: LocalInstant? = nil
  ) {
    self.lastLanding = lastLanding
    self.valid = valid
    self.matched = matched
    self.unquiet = unquiet
    self.reason = reason
  }
}

/// When a target compares what landed with the grant's digests.
public enum ProofPolicy: String, Sendable, CaseIterable {
  /// Never: what the source does not confirm is not kept.
  case off
  /// When the source did not vouch for every block: it could not, or it is gone.
  case onFailure
  /// Always, also when the source vouches.
  case always
}

/// What a move is held to, and what its rest is weighed against.
public struct FetchDeadlines: Equatable, Sendable {
  /// Estimated time to compute one of its blocks instead.
  public var recomputePerBlock: Duration
  /// By how much its rest may take longer than computing it, as a share.
  public var regret: Double
  /// From the start of the move.
  public var hard: Duration
  public var proof: Duration

  public init(recomputePerBlock: Duration, regret: Double, hard: Duration, proof: Duration) {
    self.recomputePerBlock = recomputePerBlock
    self.regret = regret
    self.hard = hard
    self.proof = proof
  }
}

/// What a ``FetchMachine`` orders. Values only: a shell carries them out in the order given.
public enum FetchAction: Equatable, Sendable {
  /// Ask the engine for blocks to land in.
  case bind(blocks: Int)
  case start(blocks: Int)
  /// Post nothing more; keep polling what is posted.
  case stopPosting
  case confirm(LeaseID)
  case checkDigests(leading: Int)
  case release(LeaseID)
  /// The one result. Never waits for quiet.
  case settle(FetchResult)
  /// Every transfer is quiet on every rank: the target blocks are nobody's any more.
  case close
}

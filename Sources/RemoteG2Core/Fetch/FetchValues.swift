/// Why fewer blocks than matched were kept. Counted once per fetch, with its peer.
public enum FallbackReason: String, Error, Sendable, CaseIterable {
  case gone, overBudget, refused
  case incompatible, peerNotReady, unknownPeer, peerOff, quarantineFull
  case resolveTimedOut, unreachable
  /// Estimated to cost more than computing it, or the peer serves enough of our fetches already.
  case slower, busy
  case noBlocks
  case transferFailed, softDeadline, hardDeadline, peerDown
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
  /// The transport does not know that source, or has lost it.
  case unknownSource
}

/// One rank's account of its part of a fetch, as of its last report.
public struct RankProgress: Equatable, Codable, Sendable {
  /// Leading blocks whose transfers ended in success.
  public var landed: Int
  /// Nothing is left to post, and every posted transfer landed or failed.
  public var isTerminal: Bool
  public var failure: TransferFailure?
  /// No posted transfer of this fetch will write again.
  public var isQuiet: Bool
  /// Nothing more will be posted: finished, failed, or told to stop. Until then ``unquiet`` is only
  /// a snapshot, and any block after ``landed`` may be written.
  public var isStopped: Bool
  /// Positions in the fetch whose transfers are posted and not quiet.
  public var unquiet: [Int]
  public var lastLanding: LocalInstant?
  /// Of ``landed``, the leading blocks whose digests equal the grant's, once checked.
  public var proved: Int?

  public init(
    landed: Int = 0, isTerminal: Bool = false, failure: TransferFailure? = nil,
    isQuiet: Bool = true, isStopped: Bool = false, unquiet: [Int] = [],
    lastLanding: LocalInstant? = nil, proved: Int? = nil
  ) {
    self.landed = landed
    self.isTerminal = isTerminal
    self.failure = failure
    self.isQuiet = isQuiet
    self.isStopped = isStopped
    self.unquiet = unquiet
    self.lastLanding = lastLanding
    self.proved = proved
  }
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
  /// The last landing on any rank, by that rank's pump.
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

/// How a fetch proves what landed.
public enum ProofPolicy: Equatable, Sendable {
  case proven(DigestPolicy)
  /// Believes every landing. It exists to show what goes wrong without proof; never use it to serve.
  case unsafelyTrusting
}

/// A fetch's deadlines, counted from the moment it started to move.
public struct FetchDeadlines: Equatable, Sendable {
  /// Estimated time to compute the span instead.
  public var span: Duration
  /// The longest silence between two landings.
  public var stall: Duration
  public var hard: Duration
  public var proof: Duration

  public init(span: Duration, stall: Duration, hard: Duration, proof: Duration) {
    self.span = span
    self.stall = stall
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

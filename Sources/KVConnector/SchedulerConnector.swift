public import RemoteG2Core

/// How much of a request can be loaded beyond what is already in G1.
public enum RemoteMatch: Equatable, Sendable {
  /// Nothing to load; schedule the request now.
  case none
  /// Not known yet: the engine leaves the request out of this step's plan and asks again in the next step.
  /// Asking again asks no store twice for one request. It may give up a fetch that no longer follows
  /// `computed`, and turn from the own store to the hinted peer.
  case undecided
  /// This many whole blocks can be loaded, following the `computed` ones. The engine answers in the same
  /// step, with ``SchedulerConnector/bind(_:to:at:)`` or ``SchedulerConnector/bindRefused(_:at:)``.
  case available(blocks: Int)
}

/// What a connector sees of a request.
public struct RequestView: Sendable {
  public let id: RequestID
  /// Keys of its whole blocks, in order.
  public let keys: [BlockKey]
  /// Whole blocks that may be loaded: the last token is always computed.
  public let blocksMax: Int
  public let hint: Hint?

  public init(id: RequestID, keys: [BlockKey], blocksMax: Int, hint: Hint?) {
    self.id = id
    self.keys = keys
    self.blocksMax = blocksMax
    self.hint = hint
  }
}

/// The one result of a load, as the engine must apply it.
public struct LoadResult: Equatable, Sendable {
  public let request: RequestID
  /// Nil for a connector that has no fetches.
  public let fetch: FetchID?
  /// Leading blocks of the load that are valid, with what to seal them under.
  public let valid: [SealedBlock]
  /// Target blocks that are not valid. Reported once.
  public let failed: [BlockIndex]
  /// Of ``failed``, those that may still be written: swap them, never reuse them before
  /// ``ConnectorOutcome/quieted`` names them.
  public let unquiet: [BlockIndex]
  /// Why some block is not valid, or why none was bound; nil when every block is valid.
  public let reason: FallbackReason?
  public let settledAt: LocalInstant
  /// When a rank found the load stalled, or else the load's hard deadline, if that came during the move; nil
  /// if neither did. In the leader's time, like every instant here.
  public let dueAt: LocalInstant?
  /// From the local store's mapping, not from a peer.
  public let isLocal: Bool
  /// The last landing on any rank; nil when nothing landed.
  public let lastLandingAt: LocalInstant?

  /// - Parameters: As the properties of the same names.
  public init(
    request: RequestID, fetch: FetchID? = nil, valid: [SealedBlock], failed: [BlockIndex],
    unquiet: [BlockIndex] = [], reason: FallbackReason?, settledAt: LocalInstant,
    dueAt: LocalInstant? = nil, isLocal: Bool = false, lastLandingAt: LocalInstant? = nil
  ) {
    self.request = request
    self.fetch = fetch
    self.valid = valid
    self.failed = failed
    self.unquiet = unquiet
    self.reason = reason
    self.settledAt = settledAt
    self.dueAt = dueAt
    self.isLocal = isLocal
    self.lastLandingAt = lastLandingAt
  }
}

/// How a connector tells which loads failed.
public enum LoadFailureReporting: Sendable {
  /// In each load's own result.
  case results
  /// Its workers name block ids that could not be loaded, and its scheduler half only says which
  /// requests' loads have ended.
  case blocks
}

/// What a step's reports changed, in the order the engine applies it.
public struct ConnectorOutcome: Equatable, Sendable {
  /// Blocks that every rank has staged, or that will not be saved: the engine gives back the hold that it took
  /// of each when it was offered.
  public var released: [BlockIndex] = []
  public var settled: [LoadResult] = []
  /// Loads that ended, and that are quiet, for connectors that report ``LoadFailureReporting/blocks``.
  public var ended: [RequestID] = []
  /// Swapped-out blocks that nothing will write again.
  public var quieted: [BlockIndex] = []

  public init() {}
}

/// The scheduler's half of a connector. The engine's step loop calls it, from one thread. In each step:
///
/// 1. ``match(_:computed:at:)`` for every request that waits. When it says `available` or `none`, the engine
///    first gives ``sealed(_:at:)`` what the request found in G1 (once for each request), and then answers
///    `available` with ``bind(_:to:at:)`` or ``bindRefused(_:at:)``.
/// 2. ``plan(at:)``. Every rank carries the plan out and reports.
/// 3. ``sealed(_:at:)`` with the blocks that this step filled; ``reasons(of:)`` and ``finish(_:)`` for every
///    request that has ended.
/// 4. ``absorb(_:at:)``. While the engine applies the outcome it calls ``sealed(_:at:)`` with the blocks that
///    were pulled, and ``reasons(of:)`` and ``finish(_:)`` for the requests that end by it.
/// 5. ``unsaved(atMost:at:)``, and ``sealed(_:at:)`` with those of its blocks that are still in G1.
///
/// A request that starves for want of blocks is finished before the plan. Between two steps ``sealed(_:at:)``
/// may come, and ``abort(_:at:)``: ``finish(_:)`` follows at once if the request was not loading, and after
/// the load's result otherwise. The group's last step calls ``plan(at:)`` and nothing else.
public protocol SchedulerConnector: AnyObject {
  /// How much more than `computed` leading blocks can be loaded.
  func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch
  /// The engine gives the blocks of an `available` match.
  func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant)
  /// The engine has no blocks for an `available` match.
  func bindRefused(_ request: RequestID, at now: LocalInstant)
  /// Blocks became final, or were found in the engine's cache by a request.
  ///
  /// - Returns: Those that it offers to the own store. The engine takes one hold of each, and keeps it until
  ///   ``ConnectorOutcome/released`` names the block.
  func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex]
  /// Blocks that the engine is to give to `sealed` again, if it still has them. Each is told once and then
  /// forgotten, until it is lacking again.
  ///
  /// - Parameter most: Blocks that the engine can do without until they are staged.
  func unsaved(atMost most: Int, at now: LocalInstant) -> [UnsavedBlock]
  /// Why less of the request was loaded than could have been, so far. Asked before `finish`.
  func reasons(of request: RequestID) -> [FallbackReason]
  /// The orders for every rank's worker half in this step, each given once. The engine must deliver them to
  /// all ranks, in this order.
  func plan(at now: LocalInstant) -> [RankOrder]
  /// Takes what the ranks and the stores have said, and decides what it changes.
  ///
  /// - Parameter reports: This step's, one of each rank, in rank order. Empty only after the last step, to
  ///   hear what stores still answer.
  /// - Returns: What the engine must do, each entry once; ``GroupCoordinator`` applies it.
  func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome
  /// The engine no longer wants the request: aborts its load. Unknown and finished requests are
  /// ignored.
  func abort(_ request: RequestID, at now: LocalInstant)
  /// Called once per request, when it leaves the engine.
  func finish(_ request: RequestID)
  var failureReporting: LoadFailureReporting { get }
  /// When ``absorb(_:at:)`` or ``match(_:computed:at:)`` next has something to decide though no report comes:
  /// the engine steps then at the latest. Nil: no deadline is running.
  var nextDeadline: LocalInstant? { get }
  /// Whether a load or a save is under way, or an order waits for a plan: the engine then keeps stepping
  /// though it computes nothing.
  var isBusy: Bool { get }
  /// Whether something waits for the very next step: an order, a grant to bind, a result to go on from, or a
  /// fetch to cancel. The engine then does not sleep before that step.
  var wantsStep: Bool { get }
}

/// What a connector need not implement. One that wraps another must pass these on too: else they hide what
/// the other would have answered.
extension SchedulerConnector {
  public func bindRefused(_ request: RequestID, at now: LocalInstant) {}
  public func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex] { [] }
  public func unsaved(atMost most: Int, at now: LocalInstant) -> [UnsavedBlock] { [] }
  public func reasons(of request: RequestID) -> [FallbackReason] { [] }
  public func abort(_ request: RequestID, at now: LocalInstant) {}
  public func finish(_ request: RequestID) {}
  public var failureReporting: LoadFailureReporting { .results }
  public var nextDeadline: LocalInstant? { nil }
  public var isBusy: Bool { false }
  public var wantsStep: Bool { false }
}

/// The worker's half, on every rank. It sees only what the scheduler's half put in the plan.
public protocol WorkerConnector: AnyObject {
  /// Takes the orders of this step's plan, before the forward pass. Every rank gets the same ones. It starts
  /// work and does not wait for it; only attaching the own store may take up to 100 ms.
  func begin(_ orders: [RankOrder])
  /// Everything that happened on this rank since the last call. Never throws: a failed load is a
  /// value in the report.
  func end(rank: Int, sequence: UInt64) -> RankReport
  /// The target blocks of loads that failed, each given once. The engine asks once a step, after
  /// ``end(rank:sequence:)``. A connector that reports results need not implement it.
  func takeLoadErrors() -> [BlockIndex]
  /// Stops one load on this rank. Our engine does not call it: it stops a load on all ranks, by an order in
  /// the plan (``RankOrder/stopPosting(_:)``). Need not be implemented where loads cannot be stopped.
  func abort(_ fetch: FetchID)
}

extension WorkerConnector {
  public func takeLoadErrors() -> [BlockIndex] { [] }
  public func abort(_ fetch: FetchID) {}
}

public import RemoteG2Core

/// How much of a request can be loaded beyond what is already in G1.
public enum RemoteMatch: Equatable, Sendable {
  /// Nothing to load; schedule the request now.
  case none
  /// Not known yet. Ask again next step; asking again has no further effect.
  case undecided
  /// This many whole blocks can be loaded, following the local prefix.
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
  public let reason: FallbackReason?
  public let settledAt: LocalInstant
  /// The deadline that ended the move, if one did.
  public let dueAt: LocalInstant?
  /// From the local store's mapping, not from a peer.
  public let isLocal: Bool
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
  /// Blocks that are no longer being saved: the engine gives back the hold it took for the save.
  public var saved: [BlockIndex] = []
  public var settled: [LoadResult] = []
  /// Loads that ended, and that are quiet, for connectors that report ``LoadFailureReporting/blocks``.
  public var ended: [RequestID] = []
  /// Swapped-out blocks that nothing will write again.
  public var quieted: [BlockIndex] = []

  public init() {}
}

/// The scheduler's half of a connector. The step loop calls it: in every step `match`, `bind` or
/// `bindRefused` for requests that wait, then `plan`, then `sealed`, `absorb`, and `unsaved`.
public protocol SchedulerConnector: AnyObject {
  /// How much more than `computed` leading blocks can be loaded.
  func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch
  /// The engine gives the blocks of an `available` match.
  func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant)
  /// The engine has no blocks for an `available` match.
  func bindRefused(_ request: RequestID, at now: LocalInstant)
  /// Blocks became final, or were found in the engine's cache by a request. Returns those it will save;
  /// the engine holds them until told otherwise.
  func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex]
  /// Blocks to be given to `sealed` again if the engine still has them, each told once.
  func unsaved(at now: LocalInstant) -> [UnsavedBlock]
  /// Why less of the request was loaded than could have been, so far. Asked before `finish`.
  func reasons(of request: RequestID) -> [FallbackReason]
  /// The orders for every rank's worker half in the next step.
  func plan(at now: LocalInstant) -> [RankOrder]
  func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome
  /// The engine no longer wants the request: aborts its load. Unknown and finished requests are
  /// ignored.
  func abort(_ request: RequestID, at now: LocalInstant)
  /// Called once per request, when it leaves the engine.
  func finish(_ request: RequestID)
  var failureReporting: LoadFailureReporting { get }
  /// When ``absorb(_:at:)`` next has something to decide even if no report comes.
  var nextDeadline: LocalInstant? { get }
  /// Whether any load is open: the engine then keeps stepping though it computes nothing.
  var isBusy: Bool { get }
  /// Whether the last absorb left something for the very next step: then the engine does not sleep.
  var wantsStep: Bool { get }
}

/// A connector that reports nothing and loads nothing.
extension SchedulerConnector {
  public func bindRefused(_ request: RequestID, at now: LocalInstant) {}
  public func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex] { [] }
  public func unsaved(at now: LocalInstant) -> [UnsavedBlock] { [] }
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
  func begin(_ orders: [RankOrder])
  /// Everything that happened on this rank since the last call. Never throws: a failed load is a
  /// value in the report.
  func end(rank: Int, sequence: UInt64) -> RankReport
  /// The target blocks of loads that failed, each given once. The engine asks once a step, after
  /// ``end(rank:sequence:)``. A connector that reports results need not implement it.
  func takeLoadErrors() -> [BlockIndex]
  /// Stops one load. A connector whose loads cannot be stopped need not implement it.
  func abort(_ fetch: FetchID)
}

extension WorkerConnector {
  public func takeLoadErrors() -> [BlockIndex] { [] }
  public func abort(_ fetch: FetchID) {}
}

public import RemoteG2Core

/// What happens to a request whose load failed.
public enum LoadFailurePolicy: String, Sendable, CaseIterable {
  /// It is computed from its valid prefix on. The default.
  case recompute
  /// It ends, alone, with a typed error to its client, if blocks were bound for the load. A load that ended
  /// before that has cost nothing, and its request goes on.
  case fail
}

/// What the engine lets a coordinator do to its requests.
public protocol LoadRecovery: AnyObject {
  /// Applies a load of which every block is valid: seals its blocks, and lets the request be matched again
  /// for what follows them.
  func resumeLoaded(_ result: LoadResult, at now: LocalInstant)
  /// Applies a load of which some blocks are not valid: seals the valid prefix, swaps each block that is not
  /// quiet for a fresh one, and lets the request be matched again. What no store has is then computed. When
  /// there are not enough fresh blocks the request loses all its blocks and starts anew. Unknown requests are
  /// ignored.
  ///
  /// - Returns: False when the engine cannot go on with the request: the coordinator then ends it.
  func recomputeFailedLoad(_ result: LoadResult, at now: LocalInstant) -> Bool
  /// Applies a load whose request does not go on with it, because it has left or is about to be ended: blocks
  /// that are not quiet stay out of the pool, and a request that has left gives back the others and ends.
  /// Unknown requests are ignored.
  func dropLoad(_ result: LoadResult, at now: LocalInstant)
  /// Ends the request with a typed error to its client. Unknown requests are ignored.
  func endRequest(_ request: RequestID, because reason: FallbackReason, at now: LocalInstant)
  /// The engine gives up one hold of each block: swapped-out blocks that nothing will write again, and blocks
  /// whose save is over, whether they were saved or not.
  func giveBack(_ blocks: [BlockIndex])
  /// The requests that are loading and have any of these blocks; none that has left.
  func requests(loadingInto blocks: Set<BlockIndex>) -> [RequestID]
  /// The blocks that a request is loading into, in order, with the names they get when valid. Empty
  /// when it loads nothing.
  func loadingBlocks(of request: RequestID) -> [SealedBlock]
}

/// Turns what all ranks reported into what each request does next. Runs on the leader only, so all
/// ranks learn the one outcome from the next plan; no collective is entered on a failure path.
public struct GroupCoordinator {
  public enum Invalid: Error, Equatable, Sendable, CustomStringConvertible {
    /// Only some ranks have a worker half. The others would not take part in a load: the deadlock that this
    /// design exists to exclude.
    case ranks(expected: Int, withWorker: Int)
    public var description: String {
      switch self {
      case .ranks(let expected, let count):
        "the group has \(expected) ranks and \(count) of them have a connector's worker half: start one on "
          + "every rank"
      }
    }
  }

  private let rankCount: Int
  private let policy: LoadFailurePolicy
  /// Blocks some rank could not load, of loads that have not ended yet.
  private var loadErrors: Set<BlockIndex> = []

  /// - Parameter workerRanks: The ranks that have a worker half.
  /// - Throws: ``Invalid`` when that is not every rank of the group.
  public init(
    rankCount: Int, workerRanks: Set<Int>, policy: LoadFailurePolicy = .recompute
  ) throws(Invalid) {
    guard workerRanks == Set(0..<rankCount) else {
      throw .ranks(expected: rankCount, withWorker: workerRanks.count)
    }
    self.rankCount = rankCount
    self.policy = policy
  }

  /// One step's reports, whole. The order is: saves done, load failures, cancels, loads done,
  /// quieted.
  public mutating func absorb(
    _ reports: [RankReport], connector: any SchedulerConnector, engine: any LoadRecovery,
    at now: LocalInstant
  ) {
    precondition(reports.count == rankCount, "\(reports.count) reports for \(rankCount) ranks")
    let outcome = connector.absorb(reports, at: now)
    engine.giveBack(outcome.released)
    var settled = outcome.settled
    if connector.failureReporting == .blocks {
      settled += results(of: outcome.ended, reports, engine: engine, at: now)
    }
    let failed = settled.filter { !$0.failed.isEmpty }
    handleLoadErrors(failed.filter { $0.reason != .cancelled }, engine: engine, at: now)
    handleLoadErrors(failed.filter { $0.reason == .cancelled }, engine: engine, at: now)
    for result in settled where result.failed.isEmpty {
      if result.valid.isEmpty {
        // Nothing was bound: the request simply goes on without this load.
        continue
      }
      engine.resumeLoaded(result, at: now)
    }
    engine.giveBack(outcome.quieted)
  }

  /// Makes one result of each load that ended, from the block ids that all ranks gave. What precedes
  /// the first block that any rank could not load is valid.
  private mutating func results(
    of ended: [RequestID], _ reports: [RankReport], engine: any LoadRecovery, at now: LocalInstant
  ) -> [LoadResult] {
    for report in reports { loadErrors.formUnion(report.loadErrors) }
    let results = ended.map { request in
      let blocks = engine.loadingBlocks(of: request)
      let valid = blocks.prefix { !loadErrors.contains($0.block) }
      let failed = blocks.dropFirst(valid.count).map(\.block)
      loadErrors.subtract(failed)
      return LoadResult(
        request: request, valid: Array(valid), failed: failed,
        reason: failed.isEmpty ? nil : .transferFailed, settledAt: now)
    }
    // A request that vanished meanwhile takes its errors with it: its blocks will have other owners.
    let affected = Set(engine.requests(loadingInto: loadErrors))
    loadErrors.formIntersection(affected.flatMap { engine.loadingBlocks(of: $0).map(\.block) })
    return results
  }

  /// Recovers or ends exactly the affected requests; the others go on.
  public func handleLoadErrors(
    _ results: [LoadResult], engine: any LoadRecovery, at now: LocalInstant
  ) {
    for result in results {
      if result.reason == .cancelled {
        engine.dropLoad(result, at: now)
        continue
      }
      switch policy {
      case .fail:
        engine.dropLoad(result, at: now)
        engine.endRequest(result.request, because: result.reason ?? .transferFailed, at: now)
      case .recompute:
        if !engine.recomputeFailedLoad(result, at: now) {
          engine.endRequest(result.request, because: result.reason ?? .transferFailed, at: now)
        }
      }
    }
  }
}

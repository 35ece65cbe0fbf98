public import RemoteG2Core

/// What happens to a request whose load failed.
public enum LoadFailurePolicy: String, Sendable, CaseIterable {
  /// It is computed from its valid prefix on. The default.
  case recompute
  /// It ends, alone, with a typed error to its client.
  case fail
}

/// What the engine lets a coordinator do to its requests.
public protocol LoadRecovery: AnyObject {
  /// Everything was kept: the blocks are sealed and the request goes on after them.
  func resumeLoaded(_ result: LoadResult, at now: LocalInstant)
  /// Rewinds the request to the valid prefix, swapping only the blocks that are not quiet, so that
  /// the next step computes the rest. False when no rewind can apply.
  func recomputeFailedLoad(_ result: LoadResult, at now: LocalInstant) -> Bool
  func endRequest(_ request: RequestID, because reason: FallbackReason, at now: LocalInstant)
  /// Swapped-out blocks that are quiet, and blocks that are saved: their holds end.
  func giveBack(_ blocks: [BlockIndex])
  /// Requests that are loading into any of these blocks.
  func requests(loadingInto blocks: Set<BlockIndex>) -> [RequestID]
}

/// Turns what all ranks reported into what each request does next. Runs on the leader only, so all
/// ranks learn the one outcome from the next plan; no collective is entered on a failure path.
public struct GroupCoordinator {
  public enum Invalid: Error, Equatable, Sendable, CustomStringConvertible {
    /// Only some ranks would take part: the deadlock this design exists to exclude.
    case ranks(expected: Int, wired: Int)
    public var description: String {
      switch self {
      case .ranks(let expected, let wired):
        "the group has \(expected) ranks and \(wired) of them are wired: wire every rank"
      }
    }
  }

  private let rankCount: Int
  private let policy: LoadFailurePolicy

  /// - Parameter wiredRanks: The ranks that have a worker half. All of them, or none of this works.
  public init(
    rankCount: Int, wiredRanks: Set<Int>, policy: LoadFailurePolicy = .recompute
  ) throws(Invalid) {
    guard wiredRanks == Set(0..<rankCount) else {
      throw .ranks(expected: rankCount, wired: wiredRanks.count)
    }
    self.rankCount = rankCount
    self.policy = policy
  }

  /// One step's reports, whole. The order is: saves done, load failures, loads done, quieted.
  public func absorb(
    _ reports: [RankReport], connector: any SchedulerConnector, engine: any LoadRecovery,
    at now: LocalInstant
  ) {
    precondition(reports.count == rankCount, "\(reports.count) reports for \(rankCount) ranks")
    let outcome = connector.absorb(reports, at: now)
    engine.giveBack(outcome.saved)
    handleLoadErrors(outcome.settled.filter { !$0.failed.isEmpty }, engine: engine, at: now)
    for result in outcome.settled where result.failed.isEmpty {
      if result.valid.isEmpty {
        // Nothing was bound: the request simply goes on without this load.
        continue
      }
      engine.resumeLoaded(result, at: now)
    }
    engine.giveBack(outcome.quieted)
  }

  /// Recovers or ends exactly the affected requests; the others go on.
  public func handleLoadErrors(
    _ results: [LoadResult], engine: any LoadRecovery, at now: LocalInstant
  ) {
    for result in results {
      if result.reason == .cancelled {
        // Its request is gone; only its blocks are left to be given back.
        _ = engine.recomputeFailedLoad(result, at: now)
        continue
      }
      switch policy {
      case .fail:
        _ = engine.recomputeFailedLoad(result, at: now)
        engine.endRequest(result.request, because: result.reason ?? .transferFailed, at: now)
      case .recompute:
        if !engine.recomputeFailedLoad(result, at: now) {
          engine.endRequest(result.request, because: result.reason ?? .transferFailed, at: now)
        }
      }
    }
  }

  /// The requests that block ids from all ranks affect: for connectors that report blocks only.
  public func affected(
    by errors: [[BlockIndex]], engine: any LoadRecovery
  ) -> [RequestID] {
    engine.requests(loadingInto: Set(errors.joined()))
  }
}

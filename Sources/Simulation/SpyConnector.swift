import KVConnector
import RemoteG2Core

/// Stands between the engine and the shipped connector: sees every result, and plants bugs.
final class SpyConnector: SchedulerConnector {
  let inner: RemoteG2Connector
  let bug: PlantedBug?
  /// Blocks that left their request and may still be written.
  private(set) var quarantine: Set<BlockIndex> = []
  private(set) var settles: [FetchID: Int] = [:]
  private var withheld: Set<BlockIndex> = []
  /// Told of blocks that are about to become findable.
  var onSealed: ([SealedBlock]) -> Void = { _ in }

  init(_ inner: RemoteG2Connector, bug: PlantedBug?) {
    self.inner = inner
    self.bug = bug
  }

  func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch {
    inner.match(request, computed: computed, at: now)
  }

  func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {
    inner.bind(request, to: blocks, at: now)
  }

  func bindRefused(_ request: RequestID, at now: LocalInstant) {
    inner.bindRefused(request, at: now)
  }

  func sealed(_ blocks: [SealedBlock], at now: LocalInstant) -> [BlockIndex] {
    onSealed(blocks)
    return inner.sealed(blocks, at: now)
  }

  func plan(at now: LocalInstant) -> [RankOrder] { inner.plan(at: now) }

  func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome {
    var outcome = inner.absorb(reports, at: now)
    for result in outcome.settled {
      if let fetch = result.fetch { settles[fetch, default: 0] += 1 }
      quarantine.formUnion(result.unquiet)
      onSealed(result.valid)
    }
    quarantine.subtract(outcome.quieted)
    if bug == .freeBeforeQuiet {
      for result in outcome.settled { withheld.formUnion(result.unquiet) }
      outcome.settled = outcome.settled.map {
        LoadResult(
          request: $0.request, fetch: $0.fetch, valid: $0.valid, failed: $0.failed, unquiet: [],
          reason: $0.reason, settledAt: $0.settledAt, dueAt: $0.dueAt, isLocal: $0.isLocal,
          lastLandingAt: $0.lastLandingAt)
      }
      outcome.quieted.removeAll { withheld.remove($0) != nil }
    }
    return outcome
  }

  func unsaved(atMost most: Int, at now: LocalInstant) -> [UnsavedBlock] {
    inner.unsaved(atMost: most, at: now)
  }
  func reasons(of request: RequestID) -> [FallbackReason] { inner.reasons(of: request) }
  var failureReporting: LoadFailureReporting { inner.failureReporting }
  func abort(_ request: RequestID, at now: LocalInstant) { inner.abort(request, at: now) }
  func finish(_ request: RequestID) { inner.finish(request) }
  var nextDeadline: LocalInstant? { inner.nextDeadline }
  var isBusy: Bool { inner.isBusy }
  var wantsStep: Bool { inner.wantsStep }
}

/// A mistake planted on purpose into a fleet of nodes: a checker that does not catch it checks nothing.
package enum FleetBug: String, Sendable, CaseIterable {
  /// A block that came over a stream is sealed whatever its digests are.
  case sealedWithoutDigest
  /// A slot's word does not change before its bytes do.
  case bytesBeforeWord
  /// A batch of a feed is lost, and the next ones are taken for those that follow.
  case feedGapNotSeen
  /// Members are not told what was evicted.
  case evictionNotTold
  /// What is due is done when something else happens.
  case deadlineNeedsTraffic
  /// The engine believes its first rank for all.
  case firstRankForAll
  /// The blocks that were being sent stay pinned when their connection breaks.
  case servedPinsKept
  /// A rank writes its staging memory again before the node has copied it.
  case stagingReusedAtOnce
  /// A pull goes on writing its block after it was said to have ended.
  case writesAfterEnd
  /// An engine that has lost its node does not look for it again.
  case nodeNotLookedForAgain
  /// A question is answered twice.
  case answersTwice
  /// Its engines are not told what a node and its members have.
  case keysNotKnown

  /// The invariant that names the mistake.
  package var names: Invariant {
    switch self {
    case .sealedWithoutDigest, .stagingReusedAtOnce: .visibleOnlyWhenSealed
    case .bytesBeforeWord: .failClosed
    case .feedGapNotSeen, .evictionNotTold, .servedPinsKept, .keysNotKnown: .accounted
    case .deadlineNeedsTraffic: .noWaitWithoutDeadline
    case .firstRankForAll: .leaderDecides
    case .writesAfterEnd: .quietBeforeReuse
    case .nodeNotLookedForAgain: .sideServiceMayVanish
    case .answersTwice: .oneTerminalResult
    }
  }
}

/// What a run of a fleet came across.
package struct FleetStats: Sendable, Equatable {
  package var requests = 0
  package var finished = 0
  package var loads = 0
  package var loadsFailed = 0
  package var blocksPulled = 0
  /// Pulls after which another member was asked for the rest.
  package var takeovers = 0
  package var stalls = 0
  package var invalid = 0
  package var busy = 0
  package var evictions = 0
  package var restarts = 0
  package var preemptions = 0
  package var aborts = 0
  package var refusals = 0
  package var savesLost = 0
  package var faults = 0

  package init() {}

  package static let names = [
    "requests", "finished", "loads", "failedload", "pulled", "takeover", "stall", "invalid", "busy",
    "evicted", "restart", "preemption", "abort", "refusal", "lostsave", "fault",
  ]
  package var numbers: [Int] {
    [
      requests, finished, loads, loadsFailed, blocksPulled, takeovers, stalls, invalid, busy,
      evictions, restarts, preemptions, aborts, refusals, savesLost, faults,
    ]
  }
}

import Collectives
import KVConnector
import RemoteG2Core
import RemoteG2Engine

/// The group's two collectives, seen from the leader; the other ranks' worker halves obey inline.
final class SimChannel: StepChannel {
  let rank = 0
  let rankCount: Int
  /// Of ranks 1 and up.
  private let followers: [any WorkerConnector]
  /// What a rank's own clock shows.
  private let clock: (Int) -> LocalInstant
  private(set) var broadcastCount = 0
  private(set) var gatherCount = 0
  /// A planted bug: a rank that failed is taken to have landed everything. What it says of
  /// quiet is believed, or the pump's own check would end the process before a checker could speak.
  var ignoresFollowers = false
  private var wanted: [FetchID: Int] = [:]

  init(followers: [any WorkerConnector], clock: @escaping (Int) -> LocalInstant) {
    self.clock = clock
    self.followers = followers
    rankCount = 1 + followers.count
  }

  func broadcast(_ plan: StepPlan?) -> StepPlan {
    guard let plan else { preconditionFailure("the leader broadcasts its plan") }
    broadcastCount += 1
    for case .load(let fetch, _, let moves, _) in plan.orders { wanted[fetch] = moves.count }
    for follower in followers { follower.begin(plan.orders) }
    return plan
  }

  func gather(_ report: RankReport) -> [RankReport] {
    gatherCount += 1
    precondition(gatherCount == broadcastCount, "a gather without its broadcast")
    var reports = [report]
    for (index, follower) in followers.enumerated() {
      var other = follower.end(rank: index + 1, sequence: report.sequence)
      other.at = clock(index + 1)
      if ignoresFollowers { ignoreFailures(in: &other) }
      reports.append(other)
    }
    return reports
  }

  private func ignoreFailures(in report: inout RankReport) {
    for (fetch, progress) in report.progress where progress.failure != nil {
      report.progress[fetch]?.failure = nil
      if progress.isQuiet {
        report.progress[fetch]?.landed = wanted[fetch] ?? progress.landed
      } else if progress.isTerminal {
        report.progress[fetch]?.posting = .stopped
      }
    }
  }
}

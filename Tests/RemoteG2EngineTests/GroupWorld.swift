import Collectives
import KVTransfer
import OSThreads
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import TransferRig

/// A rank group in this process, one thread a rank.
final class GroupWorld {
  let group: LocalGroup<StepPlan, RankReport>
  let members: [GroupMember]
  let leader: GroupLeader<LocalStepChannel<StepPlan, RankReport>>
  private var threads: [OSThread] = []

  init(
    _ rankCount: Int, fault: GroupFault? = nil, errors: [Int: ClockError] = [:],
    refusals: [Int: Int] = [:]
  ) throws {
    let group = LocalGroup<StepPlan, RankReport>(rankCount: rankCount)
    self.group = group
    members = try (0..<rankCount).map {
      try GroupMember(
        reducer: group.reducer($0), fault: fault, error: errors[$0] ?? ClockError(),
        refusals: refusals[$0] ?? 0)
    }
    for (rank, member) in members.enumerated().dropFirst() {
      threads.append(OSThread.start("rank-\(rank)") { member.follow(group.channel(rank)) })
    }
    leader = try GroupLeader(
      members[0], channel: group.channel(0),
      proof: fault?.kind == .isCorrupt ? .always : .onFailure)
  }

  /// Ends the group and returns what anybody still holds.
  func end() -> [String] {
    leader.engine.end()
    for thread in threads { thread.join() }
    threads = []
    return leader.leaks
      + members.enumerated().compactMap { rank, member in
        let count = member.faulty.inFlightCount
        return count > 0 ? "\(count) transfers on rank \(rank)" : nil
      }
  }
}

import Collectives
import Foundation
import KVConnector
import KVTransfer
import OSThreads
import RankGroups
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import RemoteG2Runtime
import TransferRig

/// One rank of a group of processes that mpirun started: `group RANKS KIND FAILING [SILENCE]`. Or the
/// start of one: `start RANKS group …`.
///
/// KIND is a kind of fault, `none`, or an ``End``.
enum GroupHost {
  /// What the failing ranks do to themselves.
  enum End: String {
    /// Killed at the door of one of the forward pass's sums, which the others enter.
    case dies
    /// Stopped, wherever it is.
    case stalls
    /// Stopped on its way out, when the others have nothing left to do but to leave.
    case stallsLeaving
  }

  /// Some steps after the start.
  private static let lastSum: UInt64 = 60

  static let prompt = (0..<50).map { Int32($0 * 7 % 64) }

  static func run(_ arguments: [String]) -> Never {
    do {
      guard arguments.count >= 3, let count = Int(arguments[0]) else {
        throw TestHost.Failure("group RANKS KIND FAILING [SILENCE]")
      }
      let failing = Set(arguments[2].split(separator: ",").compactMap { Int($0) })
      let kind = GroupFault.Kind(rawValue: arguments[1])
      let end = End(rawValue: arguments[1])
      let silence =
        arguments.count > 3
        ? Duration.milliseconds(Int((Double(arguments[3]) ?? 0) * 1000)) : Limits().groupSilenceMax
      let pulse = GroupPulse()
      let watchdog = GroupWatchdog(
        pulse, rank: GroupLauncher.rankName, startMax: .seconds(60),
        silenceMax: silence)
      let group = try MPIGroup(expecting: count, pulse: pulse)
      watchdog.groupHasStarted()
      print("rank \(group.rank) is \(getpid())")
      fflush(nil)
      let failures = try run(
        group, fault: kind.map { GroupFault($0, on: failing) },
        end: failing.contains(group.rank) ? end : nil, goesOn: end == .dies || end == .stalls)
      group.leave()
      GroupMemory.leave()
      withExtendedLifetime(watchdog) {}
      TestHost.finish(failures.map { "rank \(group.rank): \($0)" })
    } catch { TestHost.finish(["\(error)"]) }
  }

  private static func run(
    _ group: MPIGroup, fault: GroupFault?, end: End?, goesOn: Bool
  ) throws -> [String] {
    let reducer = WatchedReducer(MPITensorReducer(group)) { count in
      if end == .dies, count == lastSum { finish(group.rank, with: SIGKILL) }
    }
    let channel = MPIStepChannel<StepPlan, RankReport>(
      group, plans: .plans, reports: .reports, limits: Limits())
    let member = try GroupMember(reducer: reducer, fault: fault)
    var failures: [String] = []
    if end == .stalls {
      let rank = group.rank
      // Later than the start, so that the others are in the middle of their steps.
      _ = OSThread.start("stall") {
        OSThread.nap(.milliseconds(300))
        finish(rank, with: SIGSTOP)
      }
    }
    if group.rank == 0 {
      let leader = try GroupLeader(
        member, channel: channel,
        proof: fault?.kind == .isCorrupt ? .always : .onFailure)
      failures += try lead(leader, fault)
      var id: UInt64 = 2
      while goesOn {
        // Until the watchdog ends it.
        try leader.submit(id, prompt, hinted: false)
        _ = leader.finish(id)
        id += 1
      }
      leader.engine.end()
    } else {
      member.follow(channel)
    }
    if let fault {
      let applied = member.faulty.applied[fault.kind.transfer] ?? 0
      if (applied > 0) != fault.ranks.contains(group.rank) {
        failures.append("\(applied) faults where \(fault.ranks.sorted()) were to fail")
      }
    }
    if member.faulty.inFlightCount > 0 { failures.append("transfers are left in flight") }
    print(
      "rank \(group.rank) entered \(channel.broadcastCount) \(channel.gatherCount) "
        + "\(reducer.sumCount)")
    fflush(nil)
    if end == .stallsLeaving { finish(group.rank, with: SIGSTOP) }
    return failures
  }

  /// Tells when, and sends this process a signal.
  private static func finish(_ rank: Int, with signal: Int32) {
    print("rank \(rank) ends at \(MonotonicClock.now().nanoseconds)")
    fflush(nil)
    kill(getpid(), signal)
  }

  /// Becomes the mpirun of a group whose ranks run this program with the rest of the arguments.
  static func start(_ arguments: [String]) -> Never {
    guard let ranks = arguments.first.flatMap({ Int($0) }) else {
      TestHost.finish(["start RANKS group …"])
    }
    let error = GroupLauncher.becomeGroup(
      ranks: ranks, arguments: Array(arguments.dropFirst()))
    TestHost.finish(["\(error)"])
  }

  /// Tells the number of every sum before it is entered.
  private final class WatchedReducer: TensorReducer {
    private let inner: MPITensorReducer
    private let willSum: (UInt64) -> Void
    var rank: Int { inner.rank }
    var rankCount: Int { inner.rankCount }
    var sumCount: UInt64 { inner.sumCount }

    init(_ inner: MPITensorReducer, willSum: @escaping (UInt64) -> Void) {
      self.inner = inner
      self.willSum = willSum
    }

    func sum(_ values: UnsafeMutablePointer<Float>, count: Int) {
      willSum(inner.sumCount + 1)
      inner.sum(values, count: count)
    }
  }

  private static func lead(
    _ leader: GroupLeader<MPIStepChannel<StepPlan, RankReport>>, _ fault: GroupFault?
  ) throws -> [String] {
    var failures: [String] = []
    guard let golden = try leader.fillPeer(prompt) else { return ["the golden run did not end"] }
    try leader.submit(1, prompt)
    guard let result = leader.finish(1) else { return ["the pull did not end"] }
    if result.generated != golden.generated { failures.append("other tokens") }
    if result.logitsDigest != golden.logitsDigest { failures.append("other logits") }
    if result.kvDigest != golden.kvDigest || result.kvDigest == nil {
      failures.append("other KV")
    }
    let kept = result.account.keptTokens
    let wanted = fault?.kept(of: 12) ?? 12...12
    if kept % 4 != 0 || !wanted.contains(kept / 4) { failures.append("kept \(kept)") }
    leader.control.answers.append(.sourceDied(GroupMember.peer))
    leader.run(30)
    return failures + leader.leaks
  }
}

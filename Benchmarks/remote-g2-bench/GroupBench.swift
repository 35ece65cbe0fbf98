import Collectives
import Foundation
import KVLayout
import OSThreads
import RankGroups
import RemoteG2Core
import RemoteG2Engine
import RemoteG2Runtime

/// (f) What a step's two collectives cost a rank group, and what a rank costs that waits.
enum GroupBench {
  private static let steps = 2_000

  /// A plan as a decode step of one request has it.
  private static func plan(_ sequence: UInt64, isLast: Bool = false) -> StepPlan {
    StepPlan(
      sequence: sequence, orders: [],
      spans: [
        .init(
          tokens: [1], position: 1_000, blocks: (0..<63).map { Int32($0) }, wantsLogits: true)
      ], isLast: isLast)
  }

  /// Ranks are threads of this process.
  static func threads() {
    print("\n(f) step channel, broadcast and gather of a decode step, us a step p50 / p99:")
    for ranks in [2, 3] {
      let group = LocalGroup<StepPlan, RankReport>(rankCount: ranks)
      let others = (1..<ranks).map { rank in
        OSThread.start("rank-\(rank)") {
          let channel = group.channel(rank)
          while true {
            let plan = channel.broadcast(nil)
            _ = channel.gather(RankReport(rank: rank, sequence: plan.sequence))
            if plan.isLast { return }
          }
        }
      }
      show("\(ranks) threads  ", costs(of: group.channel(0)))
      for thread in others { thread.join() }
    }
  }

  /// This process is a rank that mpirun started.
  static func processes() throws {
    let group = try MPIGroup()
    let channel = MPIStepChannel<StepPlan, RankReport>(
      group, plans: .plans, reports: .reports, limits: Limits())
    if group.rank == 0 {
      show("\(group.rankCount) processes", costs(of: channel, isLast: false))
      try lead(group, channel)
    } else {
      follow(group, channel)
    }
    waitInSum(group)
    group.leave()
  }

  /// The leader comes to a sum three seconds late.
  private static func waitInSum(_ group: MPIGroup) {
    let reducer = MPITensorReducer(group)
    var value: Float = 1
    let (cpu, began) = (Bench.processorSeconds(), MonotonicClock.now())
    if group.rank == 0 { OSThread.nap(.seconds(3)) }
    reducer.sum(&value, count: 1)
    guard group.rank == 1 else { return }
    let share = (Bench.processorSeconds() - cpu) / (MonotonicClock.now() - began).inSeconds
    print(String(format: "  a rank that waits in a sum uses %.3f core", share))
  }

  private static func costs<Channel: StepChannel>(
    of channel: Channel, isLast: Bool = true
  ) -> [Double]
  where Channel.Plan == StepPlan, Channel.Report == RankReport {
    (1...steps).map { step in
      let before = MonotonicClock.now()
      let plan = channel.broadcast(plan(UInt64(step), isLast: isLast && step == steps))
      _ = channel.gather(RankReport(rank: 0, sequence: plan.sequence))
      return (MonotonicClock.now() - before).inSeconds * 1e6
    }
  }

  private static func show(_ name: String, _ micros: [Double]) {
    print(
      "  " + name
        + String(
          format: "  %.0f / %.0f", Bench.quantile(micros, 0.5), Bench.quantile(micros, 0.99)))
  }

  /// News of another rank, each after a quiet time: it rings, and is known here when the step that
  /// it caused has gathered. Then ten seconds of nothing, but for the leader's step a second.
  private static func lead(
    _ group: MPIGroup, _ channel: MPIStepChannel<StepPlan, RankReport>
  ) throws {
    let bell = EventBell()
    var (delays, lateness): ([Double], [Double]) = ([], [])
    var sequence = UInt64(steps)
    func step(_ isLast: Bool = false) -> [RankReport] {
      sequence += 1
      let plan = channel.broadcast(plan(sequence, isLast: isLast))
      return channel.gather(RankReport(rank: 0, sequence: plan.sequence))
    }
    group.bell.clear()
    for _ in 0..<200 {
      _ = bell.wait(
        until: MonotonicClock.now() + .seconds(1), hearing: [group.bell.descriptor])
      group.bell.clear()
      let reports = step()
      let now = MonotonicClock.now()
      for at in reports.compactMap(\.at) { delays.append((now - at).inSeconds * 1e6) }
      // In turns with it: how late this machine wakes a thread that has nothing to do with the group.
      OSThread.nap(.milliseconds(1))
      lateness.append((MonotonicClock.now() - now).inSeconds * 1e6 - 1000)
    }
    print(
      String(
        format: "  news of another rank is known to the group after %.0f / %.0f / %.0f us "
          + "(p50 / p99 / max)", Bench.quantile(delays, 0.5), Bench.quantile(delays, 0.99),
        delays.max() ?? 0))
    print(
      String(
        format: "  meanwhile a bare nap of 1 ms ended late by %.0f / %.0f / %.0f us",
        Bench.quantile(lateness, 0.5), Bench.quantile(lateness, 0.99), lateness.max() ?? 0))
    for _ in 0..<10 {
      OSThread.nap(.seconds(1))
      _ = step()
    }
    _ = step(true)
  }

  private static func follow(
    _ group: MPIGroup, _ channel: MPIStepChannel<StepPlan, RankReport>
  ) {
    var news: LocalInstant?
    var idleFrom: (cpu: Double, at: LocalInstant)?
    while true {
      let plan = channel.broadcast(nil)
      var report = RankReport(rank: group.rank, sequence: plan.sequence)
      report.at = news
      news = nil
      _ = channel.gather(report)
      if plan.isLast { break }
      // Rank 1 has the news; every step it causes is followed by a quiet time.
      let index = Int(plan.sequence) - steps
      if group.rank == 1, index >= 0, index < 200 {
        OSThread.nap(.milliseconds(10))
        news = MonotonicClock.now()
        group.bell.ring()
      }
      if index == 200 { idleFrom = (Bench.processorSeconds(), MonotonicClock.now()) }
    }
    guard let idleFrom, group.rank == 1 else { return }
    let share =
      (Bench.processorSeconds() - idleFrom.cpu) / (MonotonicClock.now() - idleFrom.at).inSeconds
    print(String(format: "  a waiting rank uses %.3f core", share))
  }
}

internal import OSThreads
internal import RemoteG2Core

/// A rank group whose ranks are threads of one process. Each rank takes its own channel and reducer.
///
/// Who waits longer than `patience` for another rank ends the process with a message: a collective
/// that some rank did not enter is our bug, and there is nothing to go on with.
public final class LocalGroup<Plan: Sendable, Report: Sendable>: Sendable {
  struct State {
    var plan: Plan?
    var planCount: UInt64 = 0
    /// By rank: the report that answers plan number `planCount`.
    var reports: [Report?]
    var reported: [UInt64]
    /// How often each rank entered each collective.
    var broadcasts: [UInt64]
    var gathers: [UInt64]
  }

  public let rankCount: Int
  let patience: Duration
  let state: Guarded<State>
  let bells: [Doorbell]
  let reduction: LocalReduction

  public init(rankCount: Int, patience: Duration = .seconds(10)) {
    precondition(rankCount >= 1, "a group has ranks")
    self.rankCount = rankCount
    self.patience = patience
    let zeros = [UInt64](repeating: 0, count: rankCount)
    state = Guarded(
      State(
        reports: [Report?](repeating: nil, count: rankCount), reported: zeros, broadcasts: zeros,
        gathers: zeros))
    bells = (0..<rankCount).map { _ in Doorbell() }
    reduction = LocalReduction(rankCount: rankCount, patience: patience)
  }

  public func channel(_ rank: Int) -> LocalStepChannel<Plan, Report> {
    LocalStepChannel(self, rank: rank)
  }

  public func reducer(_ rank: Int) -> LocalTensorReducer {
    LocalTensorReducer(reduction, rank: rank)
  }

  /// How often each rank entered each collective, in rank order. Between two steps all are equal.
  public var entries: (broadcasts: [UInt64], gathers: [UInt64], sums: [UInt64]) {
    let (broadcasts, gathers) = state.withLock { ($0.broadcasts, $0.gathers) }
    return (broadcasts, gathers, reduction.entries)
  }

  /// Waits on the rank's bell until `take` gives something.
  func wait<Value>(_ rank: Int, for what: String, _ take: (inout State) -> Value?) -> Value {
    let deadline = MonotonicClock.now() + patience
    while true {
      if let value = state.withLock({ take(&$0) }) { return value }
      precondition(
        MonotonicClock.now() < deadline, "rank \(rank) waited \(patience) for \(what)")
      bells[rank].wait(until: deadline)
    }
  }
}

/// One rank's end of a ``LocalGroup``'s control collectives. Used by that rank's step thread only.
public final class LocalStepChannel<Plan: Sendable, Report: Sendable>: StepChannel {
  private let group: LocalGroup<Plan, Report>
  public let rank: Int
  public var rankCount: Int { group.rankCount }
  private var count: UInt64 = 0

  init(_ group: LocalGroup<Plan, Report>, rank: Int) {
    precondition((0..<group.rankCount).contains(rank), "rank \(rank) of \(group.rankCount)")
    self.group = group
    self.rank = rank
  }

  public func broadcast(_ plan: Plan?) -> Plan {
    count += 1
    if rank == 0 {
      guard let plan else { preconditionFailure("the leader broadcasts its plan") }
      group.state.withLock { state in
        precondition(state.planCount + 1 == count, "a broadcast without the gather before it")
        state.plan = plan
        state.planCount = count
        state.broadcasts[0] += 1
      }
      for bell in group.bells.dropFirst() { bell.ring() }
      return plan
    }
    precondition(plan == nil, "only the leader plans")
    group.state.withLock { $0.broadcasts[rank] += 1 }
    return group.wait(rank, for: "plan \(count)") { $0.planCount == count ? $0.plan : nil }
  }

  public func gather(_ report: Report) -> [Report] {
    group.state.withLock { state in
      precondition(state.planCount == count, "a gather without its broadcast")
      state.gathers[rank] += 1
      state.reports[rank] = report
      state.reported[rank] = count
    }
    guard rank == 0 else {
      group.bells[0].ring()
      return []
    }
    return group.wait(0, for: "the reports on plan \(count)") { state in
      guard state.reported.allSatisfy({ $0 == count }) else { return nil }
      return state.reports.compactMap { $0 }
    }
  }
}

public import Collectives
public import KVConnector
public import RemoteG2Core

/// The step loop of a rank above 0: it obeys plans and reports, and decides nothing.
///
/// Its collectives are the leader's, one broadcast and one gather a step, whatever becomes of its
/// loads; so no failure can make it enter one that others do not, or miss one that they enter.
public final class RankLoop<Channel: StepChannel>
where Channel.Plan == StepPlan, Channel.Report == RankReport {
  private let channel: Channel
  private let parts: RankStep

  /// - Parameters:
  ///   - memory: This rank's G1, as many blocks as the leader's.
  ///   - clock: This rank's own; it need not agree with the leader's.
  public init(
    model: any ForwardPass, memory: UnsafeMutableRawPointer, channel: Channel,
    worker: any WorkerConnector, clock: @escaping () -> LocalInstant
  ) {
    precondition(channel.rank > 0, "rank 0 leads")
    self.channel = channel
    parts = RankStep(model: model, memory: memory, worker: worker, clock: clock)
  }

  /// Waits for one plan, and obeys it.
  ///
  /// - Returns: false when the group has ended.
  public func step() -> Bool {
    let plan = channel.broadcast(nil)
    let (_, report) = parts.run(plan, rank: channel.rank) { $0() }
    _ = channel.gather(report)
    return !plan.isLast
  }
}

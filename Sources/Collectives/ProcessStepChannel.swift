public import RemoteG2Core

/// The control collectives of one process: with its group, or with nobody.
public final class ProcessStepChannel<Plan: Sendable, Report: Sendable>: StepChannel {
  private enum Kind {
    case solo(SoloStepChannel<Plan, Report>)
    case group(MPIStepChannel<Plan, Report>)
  }

  private let kind: Kind
  public let rank: Int
  public let rankCount: Int

  /// - Parameter group: Nil for a group of one.
  public init(
    _ group: MPIGroup?, plans: FrameCoder<Plan>, reports: FrameCoder<Report>, limits: Limits
  ) {
    rank = group?.rank ?? 0
    rankCount = group?.rankCount ?? 1
    kind =
      group.map { .group(MPIStepChannel($0, plans: plans, reports: reports, limits: limits)) }
      ?? .solo(SoloStepChannel())
  }

  public func broadcast(_ plan: Plan?) -> Plan {
    switch kind {
    case .solo(let channel): channel.broadcast(plan)
    case .group(let channel): channel.broadcast(plan)
    }
  }

  public func gather(_ report: Report) -> [Report] {
    switch kind {
    case .solo(let channel): channel.gather(report)
    case .group(let channel): channel.gather(report)
    }
  }
}

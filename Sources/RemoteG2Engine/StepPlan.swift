public import KVLayout
public import RemoteG2Core

/// What every rank does in one step. All that a rank ever learns.
public struct StepPlan: Equatable, Sendable {
  public let sequence: UInt64
  public let orders: [RankOrder]
  public let spans: [SequenceSpan]
}

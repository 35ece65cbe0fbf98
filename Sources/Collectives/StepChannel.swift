/// The two control collectives of a step. Only the step loop holds one, so nothing else can enter a
/// collective that another rank does not.
public protocol StepChannel: AnyObject {
  associatedtype Plan: Sendable
  associatedtype Report: Sendable

  var rank: Int { get }
  var rankCount: Int { get }
  /// Rank 0 gives its plan; every rank gets it.
  func broadcast(_ plan: Plan?) -> Plan
  /// Every rank gives its report; rank 0 gets all of them, in rank order, and the others none.
  func gather(_ report: Report) -> [Report]
}

/// A group of one: both collectives are plain calls.
public final class SoloStepChannel<Plan: Sendable, Report: Sendable>: StepChannel {
  public let rank = 0
  public let rankCount = 1
  /// How often each was entered; they never differ by more than the step in progress.
  public private(set) var broadcastCount = 0
  public private(set) var gatherCount = 0

  public init() {}

  public func broadcast(_ plan: Plan?) -> Plan {
    guard let plan else { preconditionFailure("the leader broadcasts its plan") }
    broadcastCount += 1
    return plan
  }

  public func gather(_ report: Report) -> [Report] {
    gatherCount += 1
    precondition(gatherCount == broadcastCount, "a gather without its broadcast")
    return [report]
  }
}

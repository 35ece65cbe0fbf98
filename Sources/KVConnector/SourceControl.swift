public import RemoteG2Core

/// What the control client is asked to do. Every request is answered, in bounded time.
public enum ControlRequest: Equatable, Sendable {
  case resolve(FetchID, SourceID, keys: [BlockKey], timeout: Duration)
  case confirm(FetchID, SourceID, LeaseID, timeout: Duration)
  /// Not answered: the lease's deadline answers for it.
  case release(SourceID, LeaseID)
  case reserve(batch: UInt64, SourceID, keys: [BlockKey])
  /// Not answered: an unsealed reservation is taken back by its deadline.
  case seal(SourceID, rank: Int, [SavedBlock])
}

public enum ControlAnswer: Equatable, Sendable {
  /// Nil: no answer in time, or no connection. `after` is the question's own time, without the wait
  /// for the step that hears of it.
  case resolved(FetchID, ResolveAnswer?, after: Duration)
  case confirmed(FetchID, ConfirmAnswer?)
  case reserved(batch: UInt64, [Reservation]?)
  /// A renewal was refused: the lease is over.
  case leaseEnded(SourceID, LeaseID)
  /// A source can be asked from now on, when every rank has opened its address. Told in the order of
  /// the deaths, so that a dead one is never attached after it.
  case announced(SourceID, [SourceAddress])
  /// This incarnation will never answer again: refused, reaped, or replaced.
  case sourceDied(SourceID)
}

/// What is known of a named peer right now.
public enum PeerState: Equatable, Sendable {
  /// Not in the member list.
  case unknown
  /// A member whose handshake has not been completed yet.
  case notReady
  case ready(SourceID)
  /// It does not answer, or nothing is there: its breaker is open.
  case off
  /// It answered, and may not share with us.
  case refused(Fingerprint.Mismatch)
}

/// The engine's view of its control client: requests go out, answers are collected, nothing waits.
public protocol SourceControl: Sendable {
  func state(ofPeer name: String) -> PeerState
  /// The local store's current incarnation, nil while it is away.
  var localStore: SourceID? { get }
  /// A rank could not attach the source: it is to be announced to the ranks again.
  func attachFailed(_ source: SourceID)
  func post(_ request: ControlRequest)
  func drain() -> [ControlAnswer]
}

extension SourceControl {
  public func attachFailed(_ source: SourceID) {}
}

public import RemoteG2Core

/// The engine's view of its control client: requests go out, answers are collected, nothing waits.
public protocol SourceControl: Sendable {
  /// Of this engine: it names its leases after it.
  var incarnation: Incarnation { get }
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

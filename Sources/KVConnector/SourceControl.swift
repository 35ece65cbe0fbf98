public import RemoteG2Core

/// The engine's view of its control client: requests go out, answers are collected, nothing waits.
public protocol SourceControl: Sendable {
  /// This engine's: it is the holder in the names of its leases.
  var incarnation: Incarnation { get }
  /// Whether a peer can be asked right now; `unknown` for a name that is not a member's.
  func state(ofPeer name: PeerName) -> PeerState
  /// The local store's current incarnation, nil while it is away.
  var localStore: SourceID? { get }
  /// A rank could not attach the source: it is to be announced to the ranks again.
  func attachFailed(_ source: SourceID)
  /// Sends a request and returns at once. Its answer comes with a later ``drain()``.
  func post(_ request: ControlRequest)
  /// Everything that has come since the last call, in the order in which it happened. Called once a step.
  func drain() -> [ControlAnswer]
}

extension SourceControl {
  /// For a client whose sources can always be attached.
  public func attachFailed(_ source: SourceID) {}
}

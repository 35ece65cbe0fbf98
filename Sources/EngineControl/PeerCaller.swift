package import RemoteG2Core

/// Makes the calls to one peer's store, in whatever protocol its kind speaks. It decides nothing: whom to call,
/// when, and what a failure means is the ``ControlCore``'s.
package protocol PeerCaller: Sendable {
  /// - Parameters:
  ///   - fingerprint, name, incarnation: Of the engine that calls.
  ///   - timeout: After it the call ends as `timedOut`.
  func reply(
    to call: PeerCall, as fingerprint: Fingerprint, name: PeerName, incarnation: Incarnation,
    timeout: Duration
  ) async throws(CallFailure) -> PeerReply
  /// Ends its connection. No call follows.
  func stop()
}

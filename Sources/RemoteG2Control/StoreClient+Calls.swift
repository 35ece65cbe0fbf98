internal import EngineControl
package import RemoteG2Core

extension StoreClient: PeerCaller {
  package func reply(
    to call: PeerCall, as fingerprint: Fingerprint, name: PeerName, incarnation: Incarnation,
    timeout: Duration
  ) async throws(CallFailure) -> PeerReply {
    do throws(CallError) {
      return switch call {
      case .handshake:
        .introduction(
          try await handshake(
            as: fingerprint, name: name.text, incarnation: incarnation, timeout: timeout))
      case .resolve(let lease, let keys, let ttl):
        .resolved(try await resolve(keys, as: lease, ttl: ttl, timeout: timeout))
      case .renew(let lease, let ttl):
        .renewed(try await renew(lease, ttl: ttl, timeout: timeout))
      case .confirm(let lease): .confirmed(try await confirm(lease, timeout: timeout))
      case .release(let lease): .released(try await release(lease, timeout: timeout))
      }
    } catch { throw error.failure(at: address) }
  }
}

extension CallError {
  /// What it means to whoever asked. A broken connection is only a refusal if the address refuses.
  func failure(at address: StoreAddress) -> CallFailure {
    switch self {
    case .timedOut: .timedOut
    case .starting: .starting
    case .invalid: .invalid
    case .unavailable: EndpointProbe.look(at: address) == .refused ? .refused : .unavailable
    }
  }
}

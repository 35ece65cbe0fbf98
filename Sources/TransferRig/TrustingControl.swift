public import KVConnector
internal import OSThreads
public import RemoteG2Core

/// A control client that, where it is told to, answers every `confirm` itself: every block is intact. It
/// exists to show what goes wrong when landings are believed; never serve with it. Its own answers ring
/// nobody: they are heard at the engine's next step, 20 ms later at most.
public final class TrustingControl: SourceControl {
  private struct State {
    var isTrusting = false
    var answers: [ControlAnswer] = []
  }

  private let inner: any SourceControl
  private let state: Guarded<State>

  public init(_ inner: any SourceControl, isTrusting: Bool = false) {
    self.inner = inner
    state = Guarded(State(isTrusting: isTrusting))
  }

  public func setTrusting(_ isOn: Bool) { state.withLock { $0.isTrusting = isOn } }

  public func post(_ request: ControlRequest) {
    guard case .confirm(let fetch, _, _, _) = request, state.withLock({ $0.isTrusting }) else {
      return inner.post(request)
    }
    state.withLock { $0.answers.append(.confirmed(fetch, .intact(.max))) }
  }

  public func drain() -> [ControlAnswer] {
    let answers = state.withLock { state in
      defer { state.answers = [] }
      return state.answers
    }
    return inner.drain() + answers
  }

  public var incarnation: Incarnation { inner.incarnation }
  public func state(ofPeer name: PeerName) -> PeerState { inner.state(ofPeer: name) }
  public var localStore: SourceID? { inner.localStore }
  public func attachFailed(_ source: SourceID) { inner.attachFailed(source) }
}

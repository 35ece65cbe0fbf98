import KVConnector
import RemoteG2Core

/// An engine's control client in the simulated network. Everything it decides is the shipped
/// ``ControlCore``'s; here its calls become planned events.
final class SimControl: SourceControl, @unchecked Sendable {
  // @unchecked: one simulation, one thread.
  let incarnation: Incarnation
  let ownStore: String
  private(set) var core: ControlCore
  private var chance: Chance
  /// The engine's own clock, set by the world before anything here runs.
  var now = LocalInstant(nanoseconds: 0)
  /// Releases ordered by the connector, by lease: each must be ordered once.
  private(set) var releases: [LeaseID: Int] = [:]
  /// A planted bug: every release is ordered twice.
  var releasesTwice = false

  /// The world's part.
  var send: (_ call: CallID, _ store: PeerName, PeerCall) -> Void = { _, _, _ in }
  var own: (OwnStore.Order) -> Void = { _ in }
  /// Something may be due earlier than was planned.
  var onDeadline: () -> Void = {}
  var onNews: () -> Void = {}
  private var isAlive = true

  init(
    ownStore: String, peers names: [PeerName], as fingerprint: Fingerprint, blockBytes: Int = 0,
    limits: Limits, at now: LocalInstant, chance: Chance
  ) {
    var chance = chance
    incarnation = Incarnation(using: &chance)
    self.chance = chance
    self.ownStore = ownStore
    self.now = now
    core = ControlCore(as: fingerprint, limits: limits)
    for name in names { core.addPeer(name, at: now) }
    core.followOwnStore(
      engine: incarnation, socket: ownStore, blockBytes: blockBytes, at: now)
  }

  /// Its process died: nothing that it may still say reaches anybody.
  func cutOff() {
    isAlive = false
    send = { _, _, _ in }
    own = { _ in }
    onDeadline = {}
    onNews = {}
  }

  func setRenewals(dropped: Bool) { core.setRenewals(dropped: dropped) }

  // MARK: For the connector

  func state(ofPeer name: PeerName) -> PeerState { core.state(ofPeer: name) }
  var localStore: SourceID? { core.localStore }

  func attachFailed(_ source: SourceID) {
    core.attachFailed(source, at: now)
    onDeadline()
  }

  private var answers: [ControlAnswer] = []

  func drain() -> [ControlAnswer] {
    defer { answers = [] }
    return answers
  }

  func post(_ request: ControlRequest) {
    guard isAlive else { return }
    if case .release(_, let lease) = request {
      releases[lease, default: 0] += 1
      if releasesTwice { releases[lease, default: 0] += 1 }
    }
    perform(core.post(request, at: now))
  }

  // MARK: Events

  func answered(_ call: CallID, _ reply: PeerReply) {
    perform(core.answered(call, reply, at: now, chance: chance.unit()))
  }

  func failed(_ call: CallID, _ failure: CallFailure) {
    perform(core.failed(call, failure, at: now, chance: chance.unit()))
  }

  func ownConnected() { perform(core.ownConnected(at: now)) }
  func ownDisconnected() { perform(core.ownDisconnected(at: now)) }
  func ownReceived(_ message: LocalMessage) { perform(core.ownReceived(message, at: now)) }
  func timePassed() { perform(core.timePassed(at: now, chance: chance.unit())) }

  private func perform(_ orders: [ControlCore.Order]) {
    for order in orders {
      switch order {
      case .call(let id, let peer, let call, _): send(id, peer, call)
      case .own(let order): own(order)
      }
    }
    let news = core.takeAnswers()
    answers += news
    if !news.isEmpty { onNews() }
    onDeadline()
  }
}

internal import KVConnector
internal import LocalStore
internal import OSThreads
package import RemoteG2Core
package import RemoteG2Node
package import Simulation

/// A control client that answers from stores in this process, when the test says so. Its own store is
/// followed by the shipped ``OwnStore``.
package final class ToyControl: SourceControl, @unchecked Sendable {
  // @unchecked: used by one test on one thread.
  package let incarnation = Incarnation(high: 77, low: 77)
  package let fingerprint: Fingerprint
  private let limits: Limits

  package init(
    fingerprint: Fingerprint = ToyControl.fingerprint(ranks: 1), limits: Limits = Limits()
  ) {
    self.fingerprint = fingerprint
    self.limits = limits
  }

  package static func fingerprint(ranks: Int) -> Fingerprint {
    Fingerprint(
      modelDigest: "toy", layout: "toy", hashScheme: "toy", rankCount: UInt32(ranks),
      numerics: "toy")
  }

  package var peers: [PeerName: PeerState] = [:]
  /// Peers' stores, and nodes.
  package var stores: [SourceID: MemoryStore] = [:]
  package var nodes: [SourceID: Node] = [:]

  // A node has a clock of its own.
  private func resolve(
    _ keys: [BlockKey], of source: SourceID, as lease: LeaseID
  ) -> ResolveAnswer? {
    if let store = stores[source] {
      return store.ledger.resolve(keys, as: lease, ttl: nil, at: now)
    }
    return nodes[source]?.decide { $0.resolve(keys, as: lease, ttl: nil, at: $1) }
  }

  private func confirm(_ lease: LeaseID, of source: SourceID) -> ConfirmAnswer? {
    if let store = stores[source] { return store.ledger.confirm(lease, at: now) }
    return nodes[source]?.decide { $0.confirm(lease, at: $1) }
  }

  private func release(_ lease: LeaseID, of source: SourceID) {
    if let store = stores[source] {
      _ = store.ledger.release(lease, at: now)
    } else {
      _ = nodes[source]?.decide { $0.release(lease, at: $1) }
    }
  }

  package var answers: [ControlAnswer] = []
  package var posted: [ControlRequest] = []
  package var now = LocalInstant(nanoseconds: 0)
  /// Requests are left without an answer.
  package var isSilent = false
  /// Confirm is answered with this instead of the ledger's word.
  package var confirmAnswer: ConfirmAnswer??
  /// Every answer to a resolve of a peer's.
  package private(set) var grants: [ResolveAnswer] = []

  // MARK: The own store

  private var own: OwnStore?
  private var link: MemoryLink?
  /// How many steps after it was sent a message of the own store's connection comes, either way.
  package var lateSteps = 0
  private var underWay: [(due: Int, deliver: () -> Void)] = []
  private var ticks = 0
  /// The own store that is there now.
  package private(set) var ownStore: MemoryStore?

  package var localStore: SourceID? { own?.source }

  /// The own store, if one was there, dies, and another takes its place; nil: none does.
  package func replaceOwnStore(_ store: MemoryStore?) {
    ownStore = store
    if own == nil {
      own = OwnStore(
        engine: incarnation, as: fingerprint, socket: "toy", limits: limits, at: now)
    }
    let old = link
    link = nil
    old?.storeDied()
    if old != nil { perform(own?.disconnected(at: now) ?? []) }
  }

  // MARK: An own store with a socket

  private var socketPath: String?
  private var socket: LocalSocket?

  /// Follows the store behind a socket, as it is shipped; nil: none any more.
  package func followOwnStore(at path: String?, blockBytes: Int = 0) {
    socketPath = path
    socket = nil
    if let path {
      own = OwnStore(
        engine: incarnation, as: fingerprint, blockBytes: blockBytes, socket: path,
        limits: limits, at: now)
    } else {
      perform(own?.disconnected(at: now) ?? [])
      own = nil
    }
  }

  private func pollSocket() {
    while let socket {
      switch socket.receive() {
      case .nothing: return
      case .message(let message, _): perform(own?.received(message, at: now) ?? [])
      case .malformed, .closed:
        self.socket = nil
        perform(own?.disconnected(at: now) ?? [])
      }
    }
  }

  /// A link over which messages take as many steps as the test says.
  package func makeLink() -> MemoryLink {
    let link = MemoryLink(now: { [weak self] in self?.now ?? LocalInstant(nanoseconds: 0) })
    link.carry = { [weak self] _, deliver in
      guard let self, lateSteps > 0 else { return deliver() }
      underWay.append((ticks + lateSteps, deliver))
    }
    return link
  }

  /// A step begins: what is due is delivered.
  package func tick() {
    ticks += 1
    let due = underWay.filter { $0.due <= ticks }
    underWay.removeAll { $0.due <= ticks }
    for message in due { message.deliver() }
    pollSocket()
    guard let deadline = own?.nextDeadline, deadline <= now else { return }
    perform(own?.timePassed(at: now, lateness: .zero) ?? [])
  }

  private func perform(_ orders: [OwnStore.Order]) {
    for order in orders {
      switch order {
      case .connect: connect()
      case .send(let message):
        _ = link?.send(message)
        socket?.send(message)
      case .close:
        link?.hangUp()
        link = nil
        socket = nil
      case .answer(let answer): answers.append(answer)
      case .tellUnusable(let reason): preconditionFailure("the toy's store is refused: \(reason)")
      }
    }
  }

  private func connect() {
    if let socketPath {
      guard case .success(let made) = LocalSocket.connect(socketPath) else {
        perform(own?.disconnected(at: now) ?? [])
        return
      }
      socket = made
      perform(own?.connected(at: now) ?? [])
      return
    }
    let link = makeLink()
    guard let ownStore, ownStore.connect(link) else {
      perform(own?.disconnected(at: now) ?? [])
      return
    }
    self.link = link
    link.onMessage = { [weak self, weak link] message, _ in
      guard let self, self.link === link else { return }
      perform(own?.received(message, at: now) ?? [])
    }
    link.onClose = { [weak self, weak link] in
      guard let self, self.link === link else { return }
      self.link = nil
      perform(own?.disconnected(at: now) ?? [])
    }
    perform(own?.connected(at: now) ?? [])
  }

  // MARK: For the connector

  package func state(ofPeer name: PeerName) -> PeerState { peers[name] ?? .unknown }

  package func attachFailed(_ source: SourceID) {
    attachFailures.append(source)
    own?.attachFailed(source)
  }
  package private(set) var attachFailures: [SourceID] = []

  package func drain() -> [ControlAnswer] {
    let taken = answers
    answers = []
    return taken
  }

  package func post(_ request: ControlRequest) {
    posted.append(request)
    guard !isSilent else { return }
    switch request {
    case .resolve(let fetch, let source, let lease, let keys, _),
      .want(let fetch, let source, let lease, let keys, _):
      guard !source.isLocal else { return postOwn(request) }
      let answer = resolve(keys, of: source, as: lease)
      if let answer { grants.append(answer) }
      answers.append(.resolved(fetch, answer, after: .milliseconds(1)))
    case .confirm(let fetch, let source, let lease, _):
      if let confirmAnswer {
        answers.append(.confirmed(fetch, confirmAnswer))
      } else {
        answers.append(.confirmed(fetch, confirm(lease, of: source)))
      }
    case .release(let source, let lease):
      guard !source.isLocal else { return postOwn(request) }
      release(lease, of: source)
    case .offer, .commit, .withdraw, .settled: postOwn(request)
    }
  }

  private func postOwn(_ request: ControlRequest) {
    perform(own?.post(request, at: now) ?? [])
  }

  /// Leases of peers that were given back, or whose question was given up.
  package var releases: [LeaseID] {
    posted.compactMap {
      if case .release(let source, let lease) = $0, !source.isLocal { lease } else { nil }
    }
  }
}

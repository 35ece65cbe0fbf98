import KVConnector
import RemoteG2Core

/// An engine's control client in the simulated network: calls with deadlines, renewals, heartbeats
/// and the shipped breaker. What the gRPC client does with tasks is done here with planned events.
final class SimControl: SourceControl, @unchecked Sendable {
  // @unchecked: one simulation, one thread.
  struct Peer {
    var state: PeerState = .notReady
    var current: SourceID?
    var breaker: PeerBreaker
  }

  struct Pending {
    let store: String
    let source: SourceID?
    let startedAt: LocalInstant
    let timeout: Duration
    let answered: (SimControl, StoreReply?) -> Void
  }

  let limits: Limits
  let ownStore: String
  var peers: [String: Peer] = [:]
  private(set) var local: SourceID?
  private var answers: [ControlAnswer] = []
  var pending: [UInt64: Pending] = [:]
  private var dead: Set<SourceID> = []
  private var handshaking: Set<String> = []
  private(set) var renewing: [LeaseID: SourceID] = [:]
  private var callNext: UInt64 = 1
  var chance: Chance
  /// The engine's own clock, set by the world before anything here runs.
  var now = LocalInstant(nanoseconds: 0)
  /// Releases ordered, by lease: each must be ordered once.
  private(set) var releases: [LeaseID: Int] = [:]
  var renewalsDropped = false
  /// A planted bug: every release is ordered twice.
  var releasesTwice = false

  /// The world's part.
  var send: (_ call: UInt64, _ store: String, StoreCall) -> Void = { _, _, _ in }
  var wakeAt: (_ call: UInt64, _ at: LocalInstant) -> Void = { _, _ in }
  var renewAt: (_ lease: LeaseID, _ at: LocalInstant) -> Void = { _, _ in }
  var attach: (SourceID, _ isLocal: Bool) -> Void = { _, _ in }
  var onNews: () -> Void = {}

  init(ownStore: String, peers names: [String], limits: Limits, chance: Chance) {
    self.ownStore = ownStore
    self.limits = limits
    self.chance = chance
    for name in names {
      peers[name] = Peer(breaker: PeerBreaker(limits: limits, at: LocalInstant(nanoseconds: 0)))
    }
  }

  /// Its process died: nothing that it may still say reaches anybody.
  func cutOff() {
    send = { _, _, _ in }
    wakeAt = { _, _ in }
    renewAt = { _, _ in }
    attach = { _, _ in }
    onNews = {}
    pending = [:]
  }

  // MARK: For the connector

  func state(ofPeer name: String) -> PeerState {
    guard let peer = peers[name] else { return .unknown }
    return peer.breaker.isClosed ? peer.state : .off
  }

  var localStore: SourceID? { local }

  func attachFailed(_ source: SourceID) { forget(source) }

  func drain() -> [ControlAnswer] {
    defer { answers = [] }
    return answers
  }

  func post(_ request: ControlRequest) {
    switch request {
    case .resolve(let fetch, let source, let keys, let timeout):
      let askedAt = now
      call(source, .resolve(keys, from: source.incarnation), within: timeout) { control, reply in
        guard case .resolved(let answer)? = reply else {
          control.tell(.resolved(fetch, nil, after: control.now - askedAt))
          return
        }
        if case .granted(let grant) = answer {
          control.renewing[grant.lease] = source
          control.renewAt(grant.lease, control.now + max(grant.ttl / 3, .milliseconds(10)))
        }
        control.tell(.resolved(fetch, answer, after: control.now - askedAt))
      }
    case .confirm(let fetch, let source, let lease, let timeout):
      call(source, .confirm(lease), within: timeout) { control, reply in
        if case .confirmed(let answer)? = reply {
          control.tell(.confirmed(fetch, answer))
        } else {
          control.tell(.confirmed(fetch, nil))
        }
      }
    case .release(let source, let lease):
      renewing[lease] = nil
      for _ in 0..<(releasesTwice ? 2 : 1) {
        releases[lease, default: 0] += 1
        call(source, .release(lease), within: limits.handshakeTimeout) { _, _ in }
      }
    case .reserve(let batch, let source, let keys):
      call(source, .reserve(keys, of: source.incarnation), within: limits.handshakeTimeout) {
        control, reply in
        if case .reserved(let reservations)? = reply {
          control.tell(.reserved(batch: batch, reservations))
        } else {
          control.tell(.reserved(batch: batch, nil))
        }
      }
    case .seal(let source, let rank, let saved):
      call(
        source, .seal(saved, rank: rank, of: source.incarnation), within: limits.handshakeTimeout
      ) { _, _ in }
    }
  }

  private func tell(_ answer: ControlAnswer) {
    answers.append(answer)
    onNews()
  }

  // MARK: Calls

  private func storeName(of source: SourceID) -> String {
    switch source {
    case .local: ownStore
    case .peer(let name, _): name
    }
  }

  private func call(
    _ source: SourceID, _ request: StoreCall, within timeout: Duration,
    _ answered: @escaping (SimControl, StoreReply?) -> Void
  ) { call(storeName(of: source), source, request, within: timeout, answered) }

  private func call(
    _ store: String, _ source: SourceID?, _ request: StoreCall, within timeout: Duration,
    _ answered: @escaping (SimControl, StoreReply?) -> Void
  ) {
    let id = callNext
    callNext += 1
    pending[id] = Pending(
      store: store, source: source, startedAt: now, timeout: timeout, answered: answered)
    send(id, store, request)
    wakeAt(id, now + timeout)
  }

  /// A reply came. A second one to the same call, or one after its deadline, is nobody's.
  func received(_ reply: StoreReply, to id: UInt64) {
    guard let call = pending.removeValue(forKey: id) else { return }
    if case .refused = reply {
      if let source = call.source { declareDead(source) }
      if call.store != ownStore {
        peers[call.store]?.breaker.refused(at: now, chance: chance.unit())
      }
      call.answered(self, nil)
      return
    }
    if call.store != ownStore { peers[call.store]?.breaker.answered(at: now) }
    call.answered(self, reply)
  }

  /// The deadline of a call passed.
  func timedOut(_ id: UInt64) {
    guard let call = pending.removeValue(forKey: id) else { return }
    if call.store != ownStore {
      peers[call.store]?.breaker.missed(
        at: now, lateness: now - call.startedAt - call.timeout, chance: chance.unit())
    }
    call.answered(self, nil)
  }

  func renew(_ lease: LeaseID) {
    guard let source = renewing[lease] else { return }
    guard !renewalsDropped else {
      renewAt(lease, now + limits.leaseTTL / 3)
      return
    }
    call(source, .renew(lease), within: limits.resolveMax) { control, reply in
      guard control.renewing[lease] != nil else { return }
      switch reply {
      case .renewed(.renewed(let ttl))?:
        control.renewAt(lease, control.now + max(ttl / 3, .milliseconds(10)))
      case .renewed(.gone)?:
        control.renewing[lease] = nil
        control.tell(.leaseEnded(source, lease))
      default: control.renewAt(lease, control.now + .milliseconds(20))
      }
    }
  }

  // MARK: Liveness

  /// One heartbeat of a peer, or of the own store. Returns how long to wait before the next.
  func beat(_ store: String) -> Duration {
    if store != ownStore {
      guard peers[store]?.breaker.mayAsk(at: now) == true else {
        return max(.milliseconds(1), (peers[store]?.breaker.retryAt ?? now) - now)
      }
    }
    // One at a time, as one loop asks: an old answer never comes after a newer one.
    guard handshaking.insert(store).inserted else { return .milliseconds(5) }
    let source = store == ownStore ? local : peers[store]?.current
    call(store, source, .handshake, within: limits.handshakeTimeout) { control, reply in
      control.handshaking.remove(store)
      if case .introduction(let incarnation)? = reply {
        control.greeted(store, incarnation)
      } else if store != control.ownStore {
        control.peers[store]?.state = .notReady
      }
    }
    return store == ownStore && local == nil ? .milliseconds(5) : limits.handshakeTimeout / 2
  }

  private func greeted(_ store: String, _ incarnation: Incarnation) {
    let source: SourceID =
      store == ownStore ? .local(incarnation) : .peer(name: store, incarnation)
    // An introduction that was under way when its sender died must not bring it back.
    guard !dead.contains(source) else { return }
    let previous = store == ownStore ? local : peers[store]?.current
    if previous != source {
      if let previous { declareDead(previous) }
      attach(source, store == ownStore)
    }
    if store == ownStore {
      local = source
    } else {
      peers[store]?.current = source
      peers[store]?.state = .ready(source)
    }
  }

  private func declareDead(_ source: SourceID) {
    guard dead.insert(source).inserted else { return }
    forget(source)
    tell(.sourceDied(source))
  }

  private func forget(_ source: SourceID) {
    switch source {
    case .local: if local == source { local = nil }
    case .peer(let name, _):
      guard peers[name]?.current == source else { return }
      peers[name]?.current = nil
      peers[name]?.state = .notReady
    }
  }
}

internal import Glibc
package import KVConnector
package import OSThreads
internal import RemoteG2Control
package import RemoteG2Core
internal import RemoteG2Store
internal import Synchronization

/// A member of the fleet, as configured.
package struct PeerAddress: Sendable, Equatable {
  package let name: String
  package let host: String
  package let port: Int

  package init(name: String, host: String, port: Int) {
    self.name = name
    self.host = host
    self.port = port
  }
}

/// The engine's client of its own store and of its peers' stores.
///
/// Handshakes, resolves, renewals, confirms and releases run as tasks with timers of their own. The
/// step loop posts requests, drains answers, and reads the state of a peer; it waits for nothing.
package final class ControlClient: SourceControl {
  struct Peer: Sendable {
    let client: StoreClient
    var breaker: PeerBreaker
    var state: PeerState = .notReady
    /// The last incarnation that was attached and is not known to be dead.
    var current: SourceID?
    /// A source that some rank could not attach is announced again after a while that doubles; its
    /// successor at once.
    var unattached: SourceID?
    var announceAfter: LocalInstant?
    var attachFailures = 0
  }

  struct State: Sendable {
    var peers: [String: Peer] = [:]
    var local: SourceID?
    var localClient: StoreClient?
    var renewals: [LeaseID: Task<Void, Never>] = [:]
    /// Test switches: what a broken network would do to renewals, and a shorter lease.
    var dropsRenewals = false
    var leaseTTL: Duration?
    var loops: [Task<Void, Never>] = []
    /// The last that were proved dead, oldest first: an answer still under way must not revive one.
    var dead: [SourceID] = []

    /// The source is no longer one that could be read from.
    mutating func forget(_ source: SourceID) {
      switch source {
      case .local: if local == source { local = nil }
      case .peer(let name, _):
        guard peers[name]?.current == source else { return }
        peers[name]?.current = nil
        peers[name]?.state = .notReady
      }
    }
  }

  let fingerprint: Fingerprint
  let name: String
  let incarnation: Incarnation
  let limits: Limits
  let state = Mutex(State())
  let answers: Mailbox<ControlAnswer>
  private let openCalls = Mutex(0)

  package init(
    fingerprint: Fingerprint, name: String, incarnation: Incarnation, limits: Limits,
    answers: Mailbox<ControlAnswer>
  ) {
    self.fingerprint = fingerprint
    self.name = name
    self.incarnation = incarnation
    self.limits = limits
    self.answers = answers
  }

  // MARK: For the step loop

  package func state(ofPeer name: String) -> PeerState {
    state.withLock { state in
      guard let peer = state.peers[name] else { return .unknown }
      if case .refused = peer.state { return peer.state }
      return peer.breaker.isClosed ? peer.state : .off
    }
  }

  package var localStore: SourceID? { state.withLock { $0.local } }

  /// Forgets that the source was announced, so that its next heartbeat announces it again.
  package func attachFailed(_ source: SourceID) {
    let now = MonotonicClock.now()
    state.withLock { state in
      state.forget(source)
      guard case .peer(let name, _) = source, var peer = state.peers[name] else { return }
      if peer.unattached != source { peer.attachFailures = 0 }
      peer.unattached = source
      peer.announceAfter =
        now
        + min(
          limits.breakerBackoffMin * (1 << min(peer.attachFailures, 10)), limits.breakerBackoffMax)
      peer.attachFailures += 1
      state.peers[name] = peer
    }
  }

  package func drain() -> [ControlAnswer] { answers.drain() }

  package func post(_ request: ControlRequest) {
    openCalls.withLock { $0 += 1 }
    Task {
      await perform(request)
      openCalls.withLock { $0 -= 1 }
    }
  }

  /// Blocks its thread until everything posted was answered, or for `limit`.
  package func finishCalls(within limit: Duration) {
    let deadline = MonotonicClock.now() + limit
    while openCalls.withLock({ $0 > 0 }), MonotonicClock.now() < deadline { usleep(1000) }
  }

  // MARK: Switches

  package func setRenewals(dropped: Bool) { state.withLock { $0.dropsRenewals = dropped } }
  package func setLeaseTTL(_ ttl: Duration?) { state.withLock { $0.leaseTTL = ttl } }

  /// Stops every timer and connection.
  package func stop() {
    let (tasks, clients) = state.withLock { state in
      let tasks = state.loops + state.renewals.values
      let clients = state.peers.values.map(\.client) + [state.localClient].compactMap { $0 }
      state.loops = []
      state.renewals = [:]
      return (tasks, clients)
    }
    for task in tasks { task.cancel() }
    for client in clients { client.stop() }
  }

  // MARK: Requests

  private func client(of source: SourceID) -> StoreClient? {
    state.withLock { state in
      switch source {
      case .local: state.localClient
      case .peer(let name, _): state.peers[name]?.client
      }
    }
  }

  private func perform(_ request: ControlRequest) async {
    switch request {
    case .resolve(let fetch, let source, let keys, let timeout):
      let ttl = state.withLock { $0.leaseTTL }
      let askedAt = MonotonicClock.now()
      let answer = await answered(by: source, within: timeout) { client throws(CallError) in
        try await client.resolve(keys, from: source.incarnation, ttl: ttl, timeout: timeout)
      }
      if case .granted(let grant)? = answer { keepRenewing(grant, from: source) }
      answers.post(.resolved(fetch, answer, after: MonotonicClock.now() - askedAt))
    case .confirm(let fetch, let source, let lease, let timeout):
      let answer = await answered(by: source, within: timeout) { client throws(CallError) in
        try await client.confirm(lease, timeout: timeout)
      }
      answers.post(.confirmed(fetch, answer))
    case .release(let source, let lease):
      state.withLock { $0.renewals.removeValue(forKey: lease) }?.cancel()
      _ = await answered(by: source, within: limits.handshakeTimeout) { client throws(CallError) in
        try await client.release(lease, timeout: limits.handshakeTimeout)
      }
    case .reserve(let batch, let source, let keys):
      let answer = await answered(by: source, within: limits.handshakeTimeout) {
        client throws(CallError) in
        try await client.reserve(
          keys, of: source.incarnation, timeout: limits.handshakeTimeout)
      }
      answers.post(.reserved(batch: batch, answer))
    case .seal(let source, let rank, let saved):
      let slots = saved.compactMap { saved in
        saved.digest.map {
          SealedSlot(slot: saved.save.slot, generation: saved.save.generation, digest: $0)
        }
      }
      _ = await answered(by: source, within: limits.handshakeTimeout) { client throws(CallError) in
        try await client.seal(
          slots, rank: rank, of: source.incarnation, timeout: limits.handshakeTimeout)
      }
    }
  }

  /// Makes a call, and learns from how it ends. Nil: no answer.
  private func answered<Answer: Sendable>(
    by source: SourceID, within timeout: Duration,
    _ call: (StoreClient) async throws(CallError) -> Answer
  ) async -> Answer? {
    guard let client = client(of: source) else { return nil }
    let startedAt = MonotonicClock.now()
    do throws(CallError) {
      let answer = try await call(client)
      if case .peer(let name, _) = source { noteAnswer(of: name) }
      return answer
    } catch {
      let isRefused = isRefused(error, client)
      if isRefused { declareDead(source) }
      if case .peer(let name, _) = source {
        note(error, of: name, isRefused: isRefused, timeout: timeout, startedAt: startedAt)
      }
      return nil
    }
  }

  /// The incarnation is proved dead. Told once.
  func declareDead(_ source: SourceID) {
    let isNews = state.withLock { state in
      guard !state.dead.contains(source) else { return false }
      if state.dead.count >= limits.deadRememberedMax { state.dead.removeFirst() }
      state.dead.append(source)
      state.forget(source)
      return true
    }
    if isNews { answers.post(.sourceDied(source)) }
  }

  /// Renews at a third of the lease's life, from the grant to the settle.
  private func keepRenewing(_ grant: Grant, from source: SourceID) {
    let task = Task { [self] in
      var ttl = grant.ttl
      while !Task.isCancelled {
        // However short a lease a peer grants, renewing it must not spin.
        try? await Task.sleep(for: max(ttl / 3, .milliseconds(10)))
        let (isDropped, wanted) = state.withLock { ($0.dropsRenewals, $0.leaseTTL) }
        guard !Task.isCancelled, !isDropped else { continue }
        let answer = await answered(by: source, within: limits.resolveMax) {
          client throws(CallError) in
          try await client.renew(grant.lease, ttl: wanted, timeout: limits.resolveMax)
        }
        switch answer {
        case .renewed(let next)?: ttl = next
        // The blocks may be reused now: nothing more is read under it.
        case .gone?:
          answers.post(.leaseEnded(source, grant.lease))
          return
        case nil: continue
        }
      }
    }
    // A peer that grants one lease twice is renewed once.
    state.withLock { $0.renewals.updateValue(task, forKey: grant.lease) }?.cancel()
  }
}

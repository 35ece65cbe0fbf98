internal import KVConnector
internal import KVTransfer
internal import OSThreads
package import RemoteG2Control
internal import RemoteG2Core
internal import RemoteG2Store
internal import Synchronization

/// The background life of each connection: handshake, heartbeat, death, return.
extension ControlClient {
  private static let heartbeat: Duration = .milliseconds(500)
  /// How long a peer that may not share with us is left alone.
  private static let refusedPause: Duration = .seconds(1)

  /// Starts to know a peer. Its state is `notReady` until its handshake is done.
  package func addPeer(_ peer: PeerAddress) throws(CallError) {
    let client = try StoreClient(.tcp(host: peer.host, port: peer.port))
    state.withLock { state in
      state.peers[peer.name] = Peer(
        client: client, breaker: PeerBreaker(limits: limits, at: MonotonicClock.now()))
      state.loops.append(Task { await self.follow(peer, client) })
    }
  }

  private func follow(_ peer: PeerAddress, _ client: StoreClient) async {
    while !Task.isCancelled {
      let startedAt = MonotonicClock.now()
      let (mayAsk, retryAt) = state.withLock { state in
        (
          state.peers[peer.name]?.breaker.mayAsk(at: startedAt) == true,
          state.peers[peer.name]?.breaker.retryAt
        )
      }
      var pause = Self.heartbeat
      if mayAsk {
        do throws(CallError) {
          let introduction = try await client.handshake(
            as: fingerprint, name: name, incarnation: incarnation, timeout: limits.handshakeTimeout)
          noteAnswer(of: peer.name)
          if !greeted(peer, introduction) { pause = Self.refusedPause }
        } catch {
          notAnswered(peer, client, error, startedAt: startedAt)
          pause = limits.breakerBackoffMin
        }
      } else if let retryAt {
        pause = max(.milliseconds(1), retryAt - startedAt)
      }
      try? await Task.sleep(for: pause)
    }
  }

  /// - Returns: Whether the peer may share with us.
  private func greeted(_ peer: PeerAddress, _ introduction: Introduction) -> Bool {
    let source = SourceID.peer(name: peer.name, introduction.incarnation)
    // An answer that was under way when its sender was found dead must not bring it back.
    if state.withLock({ $0.dead.contains(source) }) { return false }
    let previous = state.withLock { $0.peers[peer.name]?.current }
    // The same address answers under another name: the one before is dead.
    if let previous, previous != source { declareDead(previous) }
    if let mismatch = fingerprint.mismatch(with: introduction.fingerprint) {
      state.withLock { $0.peers[peer.name]?.state = .refused(mismatch) }
      return false
    }
    guard !introduction.pools.isEmpty else {
      let mismatch = Fingerprint.Mismatch(
        field: "transport", ours: "NIXL", theirs: "none: start it where NIXL is installed")
      state.withLock { $0.peers[peer.name]?.state = .refused(mismatch) }
      return false
    }
    guard introduction.pools.count == Int(fingerprint.rankCount),
      introduction.pools.allSatisfy({ $0.metadata.count <= limits.metadataBytesMax })
    else {
      let mismatch = Fingerprint.Mismatch(
        field: "pools",
        ours: "\(fingerprint.rankCount), of at most \(limits.metadataBytesMax) bytes",
        theirs: "\(introduction.pools.map(\.metadata.count))")
      state.withLock { $0.peers[peer.name]?.state = .refused(mismatch) }
      return false
    }
    if previous != source {
      let now = MonotonicClock.now()
      let isEarly = state.withLock { state in
        guard let known = state.peers[peer.name], known.unattached == source else { return false }
        return (known.announceAfter ?? now) > now
      }
      if isEarly { return true }
      answers.post(
        .announced(
          source,
          introduction.pools.map {
            .remote(
              metadata: $0.metadata, address: $0.address, slotCount: $0.slotCount,
              blockBytes: $0.blockBytes)
          }))
    }
    state.withLock { state in
      state.peers[peer.name]?.current = source
      state.peers[peer.name]?.state = .ready(source)
    }
    return true
  }

  private func notAnswered(
    _ peer: PeerAddress, _ client: StoreClient, _ error: CallError, startedAt: LocalInstant
  ) {
    let isRefused = isRefused(error, client)
    if isRefused, let current = state.withLock({ $0.peers[peer.name]?.current }) {
      declareDead(current)
    }
    note(
      error, of: peer.name, isRefused: isRefused, timeout: limits.handshakeTimeout,
      startedAt: startedAt)
    // Silent but not proved dead: nobody new is sent there, and nothing is fenced.
    state.withLock { $0.peers[peer.name]?.state = .notReady }
  }

  // MARK: The breaker

  /// Nobody listens at the address any more.
  func isRefused(_ error: CallError, _ client: StoreClient) -> Bool {
    if case .unavailable = error {
      EndpointProbe.look(at: client.address) == .refused
    } else {
      false
    }
  }

  func noteAnswer(of name: String) {
    state.withLock { $0.peers[name]?.breaker.answered(at: MonotonicClock.now()) }
  }

  /// What a call that was not answered as it should says about its peer.
  func note(
    _ error: CallError, of name: String, isRefused: Bool, timeout: Duration,
    startedAt: LocalInstant
  ) {
    // Ended by ourselves: it says nothing.
    if Task.isCancelled { return }
    let now = MonotonicClock.now()
    let chance = Double.random(in: 0...1)
    state.withLock { state in
      switch error {
      case _ where isRefused: state.peers[name]?.breaker.refused(at: now, chance: chance)
      // Nonsense is an answer, and so is a store that says it is starting.
      case .invalid, .starting: state.peers[name]?.breaker.answered(at: now)
      case .timedOut, .unavailable:
        state.peers[name]?.breaker.missed(
          at: now, lateness: now - startedAt - timeout, chance: chance)
      }
    }
  }

  /// By peer, with what they have counted.
  var breakers: [String: PeerBreaker] { state.withLock { $0.peers.mapValues(\.breaker) } }

  // MARK: The local store

  /// Follows the store behind a Unix socket: has its pools mapped whenever a new incarnation answers.
  ///
  /// - Parameter onIncompatible: Told the process of a store that this engine cannot use.
  package func followLocalStore(
    at path: String, onIncompatible: @escaping @Sendable (Int32, String) -> Void
  ) throws(CallError) {
    let client = try StoreClient(.unix(path: path))
    state.withLock { state in
      state.localClient = client
      state.loops.append(
        Task {
          while !Task.isCancelled {
            await self.visitLocalStore(client, onIncompatible)
            let isAttached = self.localStore != nil
            try? await Task.sleep(for: isAttached ? .milliseconds(250) : .milliseconds(25))
          }
        })
    }
  }

  private func visitLocalStore(
    _ client: StoreClient, _ onIncompatible: @Sendable (Int32, String) -> Void
  ) async {
    do throws(CallError) {
      let attachment = try await client.attach(timeout: limits.handshakeTimeout)
      let source = SourceID.local(attachment.incarnation)
      let previous = state.withLock { $0.local }
      // Or an answer that was under way when its sender was found dead.
      let isDead = state.withLock { $0.dead.contains(source) }
      guard previous != source, !isDead else { return }
      if let previous { declareDead(previous) }
      if let mismatch = fingerprint.mismatch(with: attachment.fingerprint) {
        onIncompatible(attachment.process, mismatch.description)
        return
      }
      answers.post(
        .announced(
          source,
          attachment.descriptors.map {
            .mapped(
              process: attachment.process, descriptor: $0, slotCount: attachment.slotCount,
              blockBytes: attachment.blockBytes)
          }))
      state.withLock { $0.local = source }
    } catch {
      if case .unavailable = error, EndpointProbe.look(at: client.address) == .refused,
        let current = localStore
      {
        declareDead(current)
      }
    }
  }

  /// The local store's own client, for its worker's housekeeping.
  package var localClient: StoreClient? { state.withLock { $0.localClient } }
}

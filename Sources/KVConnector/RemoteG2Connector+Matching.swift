public import RemoteG2Core

/// What of a request could be loaded, and from where.
extension RemoteG2Connector {
  public func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch {
    requests.stopsWaiting(request.id)
    guard computed < request.blocksMax, computed < request.keys.count, !isOff else {
      if isOff, let hint = request.hint, !requests.hasTriedPeer(request.id) {
        requests.triesPeer(request.id)
        count(.connectorOff, request.id, from: .peer(hint.store), at: now)
      }
      // What it was fetching was computed meanwhile: the fetch must not outlive its use.
      if let record = activeRecord(of: request.id) {
        if !record.source.isLocal {
          count(
            isOff ? .connectorOff : .prefixMoved, request.id, from: record.source.name,
            at: now)
        }
        perform(record.machine.cancelled(), record, at: now)
      }
      return .none
    }
    if let record = activeRecord(of: request.id) {
      let found = matchActive(record, computed: computed, at: now)
      // What the own store has does not fit any more: the hint is still to be followed.
      guard case .none = found, record.source.isLocal, settings.route == .direct,
        let hint = request.hint, !requests.hasTriedPeer(request.id)
      else { return found }
      return matchPeer(request, hint, computed: computed, at: now)
    }
    // Another request is loading the very next block: its settle releases us both.
    if fetches.loader(of: request.keys[computed]) != nil { return .undecided }
    if !requests.hasTriedLocal(request.id),
      fetches.unsettledCount < settings.limits.fetchesInFlightMax
    {
      requests.triesLocal(request.id)
      if let local = control.localStore, sources.isAttached(local) {
        return begin(request, from: local, computed: computed, blocksMax: nil, at: now)
      }
    }
    // The node finds out itself who has it.
    guard settings.route == .direct, let hint = request.hint, !requests.hasTriedPeer(request.id)
    else { return .none }
    return matchPeer(request, hint, computed: computed, at: now)
  }

  /// Its hint is followed, once, or there is a reason why not.
  private func matchPeer(
    _ request: RequestView, _ hint: Hint, computed: Int, at now: LocalInstant
  ) -> RemoteMatch {
    func decline(_ reason: FallbackReason) -> RemoteMatch {
      requests.triesPeer(request.id)
      count(reason, request.id, from: .peer(hint.store), at: now)
      return .none
    }
    guard fetches.unsettledCount < settings.limits.fetchesInFlightMax else {
      return decline(.tooManyFetches)
    }
    switch readiness(of: hint.store) {
    case .success(let source):
      if let reason = declines(request, source, computed: computed, blocksMax: hint.blocksMax) {
        if reason == .slower { estimator.declined(source.name) }
        return decline(reason)
      }
      requests.triesPeer(request.id)
      return begin(request, from: source, computed: computed, blocksMax: hint.blocksMax, at: now)
    case .failure(.peerNotReady):
      let recompute = estimator.recomputeTime(
        tokens: (request.blocksMax - computed) * settings.tokensPerBlock)
      let limit = min(settings.limits.peerNotReadyWaitMax, recompute / 10)
      guard requests.waits(request.id, atMost: limit, at: now) else {
        return decline(.peerNotReady)
      }
      return .undecided
    case .failure(let reason): return decline(reason)
    }
  }

  private func begin(
    _ request: RequestView, from source: SourceID, computed: Int, blocksMax: Int?,
    at now: LocalInstant
  ) -> RemoteMatch {
    let id = fetches.makeID()
    // Known before it is begun, so that whatever it comes to finds its request.
    requests.began(id, for: request.id)
    start(id, request, from: source, computed: computed, blocksMax: blocksMax, at: now)
    return .undecided
  }

  /// The request asks again while its fetch is open.
  private func matchActive(
    _ record: FetchRecord, computed: Int, at now: LocalInstant
  ) -> RemoteMatch {
    guard let grant = record.grant, record.targets.isEmpty else { return .undecided }
    let end = record.first + grant.blocks.count
    // The local prefix grew or shrank while the source was asked: only what still follows it
    // counts; anything else is given back, never misplaced.
    guard computed >= record.first, computed < end else {
      if !record.source.isLocal {
        count(.prefixMoved, record.request, from: record.source.name, at: now)
      }
      perform(record.machine.cancelled(), record, at: now)
      return .none
    }
    record.skipped = computed - record.first
    return .available(blocks: end - computed)
  }

  func readiness(of store: PeerName) -> Result<SourceID, FallbackReason> {
    switch control.state(ofPeer: store) {
    case .unknown: return .failure(.unknownPeer)
    case .refused: return .failure(.incompatible)
    case .notReady: return .failure(.peerNotReady)
    case .off: return .failure(.peerOff)
    case .ready(let source):
      // The peer is off, for this engine, until what it may still write is quiet.
      if quarantine.isFull(for: source) { return .failure(.quarantineFull) }
      return sources.isAttached(source) ? .success(source) : .failure(.peerNotReady)
    }
  }

  /// Why a pull from a ready peer is not worth starting; nil when it is.
  private func declines(
    _ request: RequestView, _ source: SourceID, computed: Int, blocksMax: Int?
  ) -> FallbackReason? {
    let open = fetches.records.values.count { $0.source == source && !$0.machine.isSettled }
    if open >= settings.limits.fetchesPerPeerMax { return .busy }
    guard settings.pullsByCost else { return nil }
    let blocks = min(request.blocksMax - computed, blocksMax ?? .max)
    // What is being read from there already goes first.
    let ahead = fetches.records.values.reduce(0) {
      $0 + ($1.source == source && $1.machine.isMoving ? $1.targets.count : 0)
    }
    let pull = estimator.pullTime(
      bytes: (blocks + ahead) * settings.blockBytes, from: source.name,
      lanes: settings.limits.transfersPostedMax)
    return pull >= estimator.recomputeTime(tokens: blocks * settings.tokensPerBlock)
      ? .slower : nil
  }

  private func start(
    _ id: FetchID, _ request: RequestView, from source: SourceID, computed: Int, blocksMax: Int?,
    at now: LocalInstant
  ) {
    let most = min(
      request.blocksMax - computed, settings.limits.blocksPerFetchMax, blocksMax ?? .max)
    let keys = Array(request.keys[computed..<computed + most])
    let isWanted = source.isLocal && settings.route == .staged
    let pace = estimator.recomputeTime(tokens: settings.tokensPerBlock)
    let timeout =
      isWanted
      ? fetchTimeout(blocks: keys.count, pace: pace) : answerTimeout(blocks: keys.count)
    let lease = LeaseID(
      serial: id.value, owner: source.incarnation, holder: control.incarnation)
    let machine = FetchMachine(
      id: id, request: request.id, lease: lease, rankCount: settings.rankCount,
      policy: settings.proof, isMapped: source.isLocal, at: now, resolveTimeout: timeout,
      lateAfter: settings.limits.timerLatenessMax)
    fetches.insert(
      FetchRecord(
        machine: machine, request: request.id, source: source, keys: keys, first: computed))
    emit(
      FetchEvent(
        .planned(blocks: keys.count), at: now, request: request.id, fetch: id, source: source.name))
    control.post(
      isWanted
        ? .want(id, source, lease, keys: keys, pace: pace)
        : .resolve(id, source, lease, keys: keys, timeout: timeout))
  }
}

internal import KVTransfer
public import RemoteG2Core

/// The scheduler half: decides what to fetch from whom, drives each fetch's machine, and tells the
/// engine the one result. Lives on the step loop of rank 0 and waits for nothing.
public final class RemoteG2Connector: SchedulerConnector {
  let control: any SourceControl
  public internal(set) var settings: ConnectorSettings
  public internal(set) var estimator = Estimator()
  let emit: (FetchEvent) -> Void
  var records: [FetchID: FetchRecord] = [:]
  var history: [RequestID: LoadHistory] = [:]
  /// Blocks on their way, by key: who else needs one waits for the same settle.
  var loading: [BlockKey: FetchID] = [:]
  var orders: [RankOrder] = []
  var outcome = ConnectorOutcome()
  /// The last that died, oldest first: a rank may still report that it opened one.
  var deadSources: [SourceID] = []
  /// By source: the ranks that can read it. It is asked once all of them can.
  var attachedRanks: [SourceID: Set<Int>] = [:]
  /// Sources that some rank could not open, until they are announced again.
  var attachFailures: Set<SourceID> = []
  /// By rank, as of their last reports.
  public internal(set) var rankCounts: [RankCounts] = []
  var saves: [UInt64: [SealedBlock]] = [:]
  /// Blocks being saved, with how many ranks have still to copy them.
  var savesInFlight: [BlockIndex: Int] = [:]
  /// Sources of fetches that settled before their resolve was answered: a late grant is released.
  var lateSources: [FetchID: SourceID] = [:]
  var quarantined = 0
  var quarantinedBySource: [SourceID: Int] = [:]
  /// A grant to bind or a result to apply came with the last absorb.
  var hasNews = false
  /// Fetches whose request left while they were open.
  var abandoned: [FetchID] = []
  var fetchNext: UInt64 = 1
  var batchNext: UInt64 = 1
  public private(set) var isOff = false
  /// One per fetch that kept less than it matched.
  public internal(set) var fallbacks: [FallbackReason: Int] = [:]

  /// - Parameter emit: Takes every event; must not block.
  public init(
    control: any SourceControl, settings: ConnectorSettings,
    emit: @escaping (FetchEvent) -> Void = { _ in }
  ) {
    self.control = control
    self.settings = settings
    self.emit = emit
  }

  // MARK: Binding

  public func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {
    guard let record = activeRecord(of: request), record.grant != nil else {
      preconditionFailure("\(request) is bound without a match")
    }
    record.targets = blocks
    let tokens = blocks.count * settings.tokensPerBlock
    emit(
      FetchEvent(
        .bound, at: now, request: request, fetch: record.machine.id,
        peer: record.source.description, blocks: blocks.count, tokens: tokens))
    perform(
      record.machine.bound(blocks: blocks.count, at: now, deadlines: deadlines(of: record)),
      record, at: now)
  }

  public func bindRefused(_ request: RequestID, at now: LocalInstant) {
    guard let record = activeRecord(of: request), record.grant != nil else {
      preconditionFailure("\(request) is refused without a match")
    }
    perform(record.machine.bindRefused(), record, at: now)
  }

  private func deadlines(of record: FetchRecord) -> FetchDeadlines {
    let limits = settings.limits
    let recompute = estimator.recomputeTime(
      tokens: record.targets.count * settings.tokensPerBlock)
    let bytes = settings.transferBlocks * settings.blockBytes
    var one = estimator.moveTime(bytes: bytes, from: record.source.description)
    if !record.source.isLocal, let pace = settings.paceBytesPerSecond {
      one = max(one, .nanoseconds(Int64(Double(bytes) / pace * 1e9)))
    }
    let span = max(recompute, limits.softDeadlineMin)
    return FetchDeadlines(
      // A mapped pool cannot fall silent, only this machine can: it has no stall of its own.
      span: span, stall: record.source.isLocal ? span : max(one * 4, limits.softDeadlineMin),
      hard: limits.hardDeadline,
      proof: min(limits.resolveMax, max(limits.resolveMin, recompute / 20)))
  }

  // MARK: Ends

  public func abort(_ request: RequestID, at now: LocalInstant) {
    guard let record = activeRecord(of: request) else { return }
    emit(
      FetchEvent(
        .aborted, at: now, request: request, fetch: record.machine.id,
        peer: record.source.description, reason: .cancelled))
    perform(record.machine.cancelled(), record, at: now)
  }

  public func finish(_ request: RequestID) {
    // Its fetch, if one is still open, is cancelled by the next absorb.
    if let active = history.removeValue(forKey: request)?.active { abandoned.append(active) }
  }

  /// The engine ends: every open load is cancelled and every lease is given back.
  public func shutDown(at now: LocalInstant) {
    isOff = true
    for fetch in records.keys.sorted() {
      guard let record = records[fetch] else { continue }
      perform(record.machine.cancelled(), record, at: now)
    }
  }

  /// Turns the feature off: recompute only. Serving goes on.
  public func turnOff() { isOff = true }

  public var nextDeadline: LocalInstant? {
    let fetches = records.values.compactMap { $0.machine.nextDeadline }.min()
    let waits = history.values.compactMap { $0.isWaitingForPeer ? $0.notReadyUntil : nil }.min()
    return [fetches, waits].compactMap { $0 }.min()
  }

  /// What is overdue, in words.
  package func overdue(at now: LocalInstant) -> [String] {
    records.values.compactMap { record in
      guard let due = record.machine.nextDeadline, due <= now else { return nil }
      return "\(record.machine.id) is \(record.machine.stateName), due \(now - due) ago"
    }
      + history.compactMap { id, past in
        past.isWaitingForPeer && (past.notReadyUntil ?? now) <= now ? "\(id) waits for a peer" : nil
      }
  }

  public var wantsStep: Bool { !orders.isEmpty || hasNews || !abandoned.isEmpty }

  public var isBusy: Bool { !records.isEmpty || !savesInFlight.isEmpty || !orders.isEmpty }

  /// Open fetches, quarantined blocks and blocks being saved: all zero when nothing is going on.
  public var open: (fetches: Int, quarantined: Int, saving: Int) {
    (records.count, quarantined, savesInFlight.count)
  }

  /// Whether a pull from this peer could start now: handshake done, agent made and connected.
  public func isReady(_ peer: String) -> Bool {
    if case .success = readiness(of: peer) { true } else { false }
  }

  /// Whether the local store is mapped.
  public var isLocalReady: Bool { control.localStore.map { isAttached($0) } ?? false }

  public func setProof(_ policy: ProofPolicy) { settings.proof = policy }

  public func observePrefill(tokens: Int, in duration: Duration) {
    estimator.prefilled(tokens: tokens, in: duration)
  }

  /// Whether a load of this fetch may still write this block.
  package func mayWrite(_ block: BlockIndex, _ fetch: FetchID) -> Bool {
    guard let record = records[fetch] else { return false }
    return (record.machine.isSettled ? record.unquiet : record.targets).contains(block)
  }

  func activeRecord(of request: RequestID) -> FetchRecord? {
    history[request]?.active.flatMap { records[$0] }
  }

  func count(_ reason: FallbackReason, _ request: RequestID, peer: String, at now: LocalInstant) {
    fallbacks[reason, default: 0] += 1
    emit(
      FetchEvent(
        .fallback, at: now, request: request, peer: peer, reason: reason,
        outcome: .localRecompute))
  }
}

public import RemoteG2Core

/// The scheduler half: decides what to fetch from whom, drives each fetch's machine, and tells the
/// engine the one result. Lives on the step loop of rank 0 and waits for nothing.
public final class RemoteG2Connector: SchedulerConnector {
  let control: any SourceControl
  public internal(set) var settings: ConnectorSettings
  public internal(set) var estimator = Estimator()
  let emit: (FetchEvent) -> Void
  var fetches = FetchTable()
  var requests = RequestTable()
  var orders: OrderQueue
  var outcome = ConnectorOutcome()
  var sources: SourceTable
  var saves: SaveTable
  var quarantine: Quarantine
  /// By rank, as of their last reports.
  public internal(set) var rankCounts: [RankCounts] = []
  /// A grant to bind or a result to apply came with the last absorb.
  var hasNews = false
  /// Blocks that one transfer carries, and how long it takes at the least.
  private var expected: (blocks: Int, time: Duration)
  public private(set) var isOff = false

  /// - Parameter emit: Takes every event; must not block.
  public init(
    control: any SourceControl, settings: ConnectorSettings,
    emit: @escaping (FetchEvent) -> Void = { _ in }
  ) {
    self.control = control
    self.settings = settings
    self.emit = emit
    expected = (settings.transferBlocksMax, .zero)
    sources = SourceTable(rankCount: settings.rankCount)
    orders = OrderQueue(blocksMax: settings.limits.planBlocksMax)
    quarantine = Quarantine(blockCount: settings.targetBlockCount, limits: settings.limits)
    saves = SaveTable(
      rankCount: settings.rankCount, inFlightMax: settings.limits.storeSavesInFlightMax,
      unsavedMax: settings.limits.unsavedMax)
  }

  // MARK: Binding

  public func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {
    guard let record = activeRecord(of: request), record.grant != nil else {
      preconditionFailure("\(request) is bound without a match")
    }
    record.targets = blocks
    tell(
      .bound(blocks: blocks.count, tokens: blocks.count * settings.tokensPerBlock), record, at: now)
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
    return FetchDeadlines(
      recomputePerBlock: estimator.recomputeTime(tokens: settings.tokensPerBlock),
      regret: limits.regretMax,
      hard: min(
        limits.hardDeadline,
        max(
          limits.hardDeadlineMin,
          .nanoseconds(Int64(clamping: recompute.inSeconds * limits.hardDeadlineFactor * 1e9)))),
      proof: answerTimeout(blocks: record.targets.count))
  }

  /// How long nothing may land before a rank reports the load as stalled. A mapped pool cannot fall
  /// silent, only this machine can.
  func stall(of record: FetchRecord) -> Duration? {
    guard !record.source.isLocal else { return nil }
    let bytes = expected.blocks * settings.blockBytes
    let one = max(estimator.moveTime(bytes: bytes, from: record.source.name), expected.time)
    return min(max(one * 4, settings.limits.stallMin), settings.limits.hardDeadline)
  }

  // MARK: Ends

  public func abort(_ request: RequestID, at now: LocalInstant) {
    guard let record = activeRecord(of: request) else { return }
    tell(.aborted, record, at: now)
    perform(record.machine.cancelled(), record, at: now)
  }

  /// Its fetch, if one is still open, is cancelled by the next absorb.
  public func finish(_ request: RequestID) { requests.finish(request) }

  public func reasons(of request: RequestID) -> [FallbackReason] { requests.reasons(of: request) }

  /// By reason: how often a request got less than it could have.
  public var fallbacks: [FallbackReason: Int] { requests.fallbacks }

  /// The engine ends: every open load is cancelled and every lease is given back.
  public func shutDown(at now: LocalInstant) {
    isOff = true
    for fetch in fetches.records.keys.sorted() {
      guard let record = fetches[fetch] else { continue }
      perform(record.machine.cancelled(), record, at: now)
    }
  }

  /// From now on no load is begun and no block is offered for saving. Loads that have their blocks go on
  /// until they settle, and the own store goes on serving peers. It cannot be turned on again.
  public func turnOff() { isOff = true }

  public var nextDeadline: LocalInstant? {
    guard let waiting = requests.nextDeadline else { return fetches.nextDeadline }
    return min(waiting, fetches.nextDeadline ?? waiting)
  }

  /// What is overdue, in words.
  package func overdue(at now: LocalInstant) -> [String] {
    fetches.records.values.compactMap { record in
      guard let due = record.machine.nextDeadline, due <= now else { return nil }
      return "\(record.machine.id) is \(record.machine.stateName), due \(now - due) ago"
    } + requests.overdue(at: now).map { "\($0) waits for a peer" }
  }

  public var wantsStep: Bool { !orders.isEmpty || hasNews || requests.hasAbandoned }

  public var isBusy: Bool { fetches.count > 0 || saves.inFlightCount > 0 || !orders.isEmpty }

  /// Open fetches, quarantined blocks and blocks being saved: all zero when nothing is going on.
  public var open: (fetches: Int, quarantined: Int, saving: Int) {
    (fetches.count, quarantine.count, saves.inFlightCount)
  }

  /// Whether a pull from this peer could start now: handshake done, agent made and connected.
  public func isReady(_ peer: PeerName) -> Bool { readySource(of: peer) != nil }

  /// The peer's incarnation that a pull could start from now.
  public func readySource(of peer: PeerName) -> SourceID? { try? readiness(of: peer).get() }

  /// Whether the local store is mapped.
  public var isLocalReady: Bool { control.localStore.map { sources.isAttached($0) } ?? false }

  /// The blocks that are on their way into the own store, in words.
  package var savesInWords: String { saves.description }

  /// What became of the blocks that every rank had staged.
  public var saveOutcomes: [SaveOutcome.Kind: Int] { saves.outcomes }

  // MARK: Rigs

  /// Passes an order on to the rigs of all ranks, unread.
  public func orderRigs(_ order: [UInt8]) { orders.append(.rig(order)) }

  /// What a rig holds one transfer to, so that its pace is not taken for a stall.
  ///
  /// - Parameter time: At the least.
  public func expectTransfers(of blocks: Int, toTake time: Duration) { expected = (blocks, time) }

  public func setProof(_ policy: ProofPolicy) { settings.proof = policy }

  public func observePrefill(tokens: Int, in duration: Duration) {
    estimator.prefilled(tokens: tokens, in: duration)
  }

  /// Whether a load of this fetch may still write this block.
  package func mayWrite(_ block: BlockIndex, _ fetch: FetchID) -> Bool {
    guard let record = fetches[fetch] else { return false }
    return (record.machine.isSettled ? record.unquiet : record.targets).contains(block)
  }

  func activeRecord(of request: RequestID) -> FetchRecord? {
    requests.active(of: request).flatMap { fetches[$0] }
  }

  /// A decision not to ask a peer: counted, told, and remembered for the request's result.
  func count(
    _ reason: FallbackReason, _ request: RequestID, from source: SourceName, at now: LocalInstant
  ) {
    requests.note(reason, for: request)
    emit(FetchEvent(.fallback(reason, blocks: 0), at: now, request: request, source: source))
  }

  func tell(_ fact: FetchEvent.Fact, _ record: FetchRecord, at now: LocalInstant) {
    emit(
      FetchEvent(
        fact, at: now, request: record.request, fetch: record.machine.id,
        lease: record.grant?.lease.serial, source: record.source.name))
  }
}

extension Int64 {
  /// The nearest whole number that fits; 0 for what is none.
  package init(clamping value: Double) {
    self = value.isNaN ? 0 : value >= 0x1p63 ? .max : value <= -0x1p63 ? .min : Int64(value)
  }
}

internal import EngineControl
internal import KVConnector
internal import OSThreads
public import RemoteG2Core

/// The scheduler half for an engine that owns its memory itself: the shell of a ``StagedScheduler``.
///
/// One thread calls it, the engine's scheduler. It does no I/O: a thread of its own speaks with the node.
public final class StagedEngine {
  /// Of waiting for first answers in one step, over all requests.
  private static let unknownWaitMax: Duration = .microseconds(200)

  private var core: StagedScheduler
  private let control: ControlClient
  private let bell: EventBell
  private let model: EngineModel
  public let keys: EngineKeys
  private var unknownWaitLeft = StagedEngine.unknownWaitMax

  /// - Parameter socket: Of the node of this host, which may come and go.
  public init(_ model: EngineModel, socket: String, limits: Limits = Limits()) {
    self.model = model
    keys = model.keys
    var chance = SystemRandomNumberGenerator()
    let incarnation = Incarnation(using: &chance)
    let bell = EventBell()
    self.bell = bell
    core = StagedScheduler(
      engine: incarnation, rankCount: model.rankCount, blockBytes: model.blockBytes,
      tokensPerBlock: model.tokensPerBlock, limits: limits)
    control = ControlClient(
      fingerprint: model.fingerprint, name: "engine", incarnation: incarnation, limits: limits,
      answers: Mailbox(ringing: bell))
    control.followLocalStore(at: socket, blockBytes: model.blockBytes)
  }

  deinit { control.stop() }

  public func newRequest(_ id: RequestID, keys: [BlockKey]) {
    let mayBeKnown = control.keysKnown
    advance { core, now in core.newRequest(id, keys: keys, at: now, mayBeKnown: mayBeKnown) }
  }

  public func match(_ id: RequestID, local: Int, most: Int) -> StagedMatch {
    let mayBeKnown = control.keysKnown
    while true {
      let answer = advance { core, now in
        core.match(id, local: local, most: most, at: now, mayBeKnown: mayBeKnown)
      }
      guard answer == .unknown, unknownWaitLeft > .zero else { return answer }
      let began = MonotonicClock.now()
      _ = bell.wait(until: began + unknownWaitLeft)
      unknownWaitLeft -= MonotonicClock.now() - began
    }
  }

  /// - Returns: False for more blocks than were ready: nothing is loaded.
  public func bind(_ id: RequestID, local: Int, targets: [BlockIndex]) -> Bool {
    // The engine binds what it was told a moment ago: what the node says meanwhile comes after it, so that a
    // node that has just died makes this a load that fails, not a bind that does.
    let isPossible = core.bind(id, local: local, targets: targets)
    control.post(core.takeRequests())
    return isPossible
  }

  /// - Returns: Whether its next step is to be told even if there is nothing new about it.
  @discardableResult
  public func scheduled(
    _ id: RequestID, computed: Int, scheduled: Int, keys: [BlockKey], blocks: [BlockIndex],
    isWhole: Bool
  ) -> Bool {
    core.scheduled(
      id, computed: computed, scheduled: scheduled, keys: keys, blocks: blocks, isWhole: isWhole)
  }

  public func plan(tokens: Int) -> StagedPlan {
    unknownWaitLeft = Self.unknownWaitMax
    return advance { core, now in core.plan(tokens: tokens, at: now) }
  }

  public func absorb(_ reports: [StagedReport]) {
    advance { core, now in core.absorb(reports, at: now) }
  }

  public func finished(_ id: RequestID) {
    advance { core, _ in core.finished(id) }
  }

  /// Sleeps until the node says something, or a request has waited long enough, or `limit` is over.
  public func wait(atMost limit: Duration) {
    let now = MonotonicClock.now()
    let until = min(core.nextDeadline ?? now + limit, now + limit)
    _ = bell.wait(until: until)
  }

  public var pendingCount: Int { core.pendingCount }
  public var counts: StagedCounts { core.counts }
  /// Whether the node is there.
  public var isAttached: Bool {
    advance { core, _ in core.isAttached }
  }

  private func advance<Result>(
    _ event: (inout StagedScheduler, LocalInstant) -> Result
  ) -> Result {
    let now = MonotonicClock.now()
    for answer in control.drain() { core.heard(answer, at: now) }
    let result = event(&core, now)
    control.post(core.takeRequests())
    return result
  }
}

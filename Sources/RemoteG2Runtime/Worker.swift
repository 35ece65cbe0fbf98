internal import CLinuxShims
package import Collectives
package import EngineControl
internal import Glibc
package import KVConnector
internal import KVLayout
package import KVTransfer
package import Linear
package import LlamaModel
package import NIXL
internal import OSThreads
internal import Processes
package import RankGroups
internal import RemoteG2Control
package import RemoteG2Core
package import RemoteG2Engine
internal import Synchronization

/// Why a worker cannot start.
package enum WorkerError: Error, Sendable, CustomStringConvertible {
  case model(ModelError)
  case selfTest(LinearSelfTest.Failure)
  case settings(ConnectorSettings.Invalid)
  case group(GroupCoordinator.Invalid)
  case memory(bytes: Int)
  case control(String)

  package var description: String {
    switch self {
    case .model(let error): "\(error)"
    case .selfTest(let error): "\(error)"
    case .settings(let error): "\(error)"
    case .group(let error): "\(error)"
    case .memory(let bytes): "no memory for a G1 of \(bytes >> 20) MiB: lower --g1-blocks"
    case .control(let what): "the control client cannot start: \(what)"
    }
  }
}

/// A worker: the engine process with its pump, its control client, and its store's supervisor.
package final class Worker: @unchecked Sendable {
  // @unchecked: the engine and the connector are touched by the step thread only; everything else
  // here is Sendable or set before that thread starts.
  package typealias WorkerEngine = Engine<WorkerStepChannel>

  package let configuration: WorkerConfiguration
  package let identity: ModelIdentity
  package let control: ControlClient
  package let pump: TransferPump
  /// Nil beside a node, which nobody here starts or ends.
  package let supervisor: StoreSupervisor?
  let model: LlamaModel
  package let engine: WorkerEngine
  package let connector: RemoteG2Connector
  let bell: EventBell
  private let group: MPIGroup?
  let commands: Mailbox<@Sendable (Worker) -> Void>
  private let isStopping = Atomic<Bool>(false)
  private let thread = Mutex<OSThread?>(nil)
  private let snapshot = Mutex(WorkerAudit())
  private let onResult: @Sendable (RequestResult) -> Void

  /// Loads the model, starts the store, and starts to step.
  ///
  /// - Parameters:
  ///   - library: Nil: nothing is pulled from peers.
  ///   - group: The rank group that this process leads; nil for a worker of one rank.
  ///   - onResult: Told every request's result, on the step thread.
  ///   - rigging: What a demonstration fastens to it; nil where it serves.
  ///   - onEvent: Told every event of a fetch, on the step thread.
  package init(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, group: MPIGroup? = nil,
    onResult: @escaping @Sendable (RequestResult) -> Void,
    onEvent: @escaping @Sendable (FetchEvent) -> Void = { _ in }, rigging: WorkerRigging? = nil
  ) throws(WorkerError) {
    self.configuration = configuration
    self.onResult = onResult
    self.group = group
    let bell = EventBell()
    self.bell = bell
    commands = Mailbox(ringing: bell)
    let limits = configuration.limits
    var generator = SystemRandomNumberGenerator()
    let incarnation = Incarnation(using: &generator)
    let parts = try RankParts(
      configuration, library: library, incarnation: incarnation,
      reducer: group.map { MPITensorReducer($0) } ?? SoloTensorReducer(), ringing: bell,
      rigging: rigging?.pump)
    (identity, pump, model) = (parts.identity, parts.pump, parts.model)
    let supervisor =
      configuration.node == nil
      ? StoreSupervisor(
        StoreLaunch(
          name: configuration.name, host: configuration.host, port: configuration.port,
          directory: configuration.directory, slotCount: configuration.slotCount,
          blockBytes: model.layout.blockBytes, rankCount: model.layout.rankCount,
          linger: configuration.linger, nixlPath: configuration.nixlPath,
          isInsecure: configuration.isInsecure, certificates: configuration.certificates)) : nil
    self.supervisor = supervisor
    control = ControlClient(
      fingerprint: identity.fingerprint(), name: PeerName(configuration.name),
      incarnation: incarnation,
      limits: limits, answers: Mailbox(ringing: bell),
      onUnusable: { supervisor?.replace($0, because: $1) })
    do throws(ConnectorSettings.Invalid) {
      connector = RemoteG2Connector(
        control: rigging?.control(control) ?? control,
        settings: try ConnectorSettings(
          rankCount: model.layout.rankCount, blockBytes: model.layout.blockBytes,
          tokensPerBlock: model.layout.tokensPerBlock, targetBlockCount: configuration.blockCount,
          limits: limits, proof: configuration.proof,
          policy: configuration.policy, pullsByCost: configuration.pullsByCost,
          route: configuration.node == nil ? .direct : .staged),
        emit: onEvent)
    } catch { throw .settings(error) }
    do throws(GroupCoordinator.Invalid) {
      engine = try Engine(
        model: model, memory: parts.memory, blockCount: configuration.blockCount,
        chain: identity.chain(), channel: WorkerStepChannel(group, limits: limits),
        worker: parts.worker, connector: connector,
        policy: configuration.policy, limits: limits, clock: MonotonicClock.now)
    } catch { throw .group(error) }
    engine.onForward = { [connector] tokens, duration in
      connector.observePrefill(tokens: tokens, in: duration)
    }
  }

  /// Starts the store, the connections and the step thread.
  package func start() throws(WorkerError) {
    supervisor?.start()
    control.followLocalStore(
      at: configuration.node ?? supervisor?.socketPath ?? "", blockBytes: model.layout.blockBytes)
    do throws(CallError) {
      for peer in configuration.peers {
        control.addPeer(
          peer.name,
          through: try StoreClient(
            StoreAddress(host: peer.host, port: peer.port), of: peer.name,
            certificates: configuration.certificates))
      }
    } catch { throw .control("\(error)") }
    let started = OSThread.start("step-0") { [self] in loop() }
    thread.withLock { $0 = started }
  }

  /// Ends the threads and connections. The store stays, and lingers.
  package func stop() {
    isStopping.store(true, ordering: .releasing)
    bell.ring()
    thread.withLock { $0.take() }?.join()
    // The others are leaving, and must not wait for what follows.
    leaveGroup()
    // Leases are given back, where their owners still listen; the others end by their deadlines.
    connector.shutDown(at: MonotonicClock.now())
    control.finishCalls(within: .milliseconds(300))
    // A grant that came meanwhile is given back too.
    _ = connector.absorb([], at: MonotonicClock.now())
    control.finishCalls(within: .milliseconds(300))
    supervisor?.stop()
    control.stop()
    pump.stop()
  }

  private func leaveGroup() {
    guard let group else { return }
    group.leave()
    GroupMemory.leave()
  }

  /// Ranks of this worker.
  package var rankCount: Int { group?.rankCount ?? 1 }

  /// Runs `body` on the step thread, between two steps.
  package func onStepThread(_ body: @escaping @Sendable (Worker) -> Void) { commands.post(body) }

  // MARK: The step thread

  private func loop() {
    // Another rank's pump has news.
    let rankBells = group.map { [$0.bell.descriptor] } ?? []
    while !isStopping.load(ordering: .acquiring) {
      for command in commands.drain() { command(self) }
      let didCompute = engine.step()
      for result in engine.takeFinished() { onResult(result) }
      publish()
      if didCompute || connector.wantsStep { continue }
      // Idle: woken by news, by a deadline, or, while anything is open, by a slow tick.
      let now = MonotonicClock.now()
      let tick: Duration = connector.isBusy || engine.hasRequests ? .milliseconds(20) : .seconds(1)
      let until = min(connector.nextDeadline ?? now + tick, now + tick)
      if bell.wait(until: until, hearing: rankBells) == .descriptor { group?.bell.clear() }
    }
    engine.end()
  }

  private func publish() {
    let open = connector.open
    let pool = engine.poolCounts
    let hasRequests = engine.hasRequests
    var ready: [String: String] = [:]
    for peer in configuration.peers {
      ready[peer.name.text] = connector.readySource(of: peer.name)?.incarnation.description
    }
    let isLocalReady = connector.isLocalReady
    let rankCounts = connector.rankCounts
    let fallbacks = Dictionary(
      uniqueKeysWithValues: connector.fallbacks.map { ($0.key.rawValue, $0.value) })
    let outcomes = Dictionary(
      uniqueKeysWithValues: connector.saveOutcomes.map { ("\($0.key)", $0.value) })
    snapshot.withLock {
      $0.fetches = open.fetches
      $0.quarantined = open.quarantined
      $0.saving = open.saving
      $0.requests = hasRequests ? 1 : 0
      $0.blocksHeld = pool.held
      $0.blocksCached = pool.cached
      $0.peersReady = ready
      $0.isLocalReady = isLocalReady
      $0.fallbacks = fallbacks
      $0.saveOutcomes = outcomes
      $0.ranks = rankCounts
    }
  }

  /// Waits until the own store is attached, or is known to be absent: nothing can be saved there then.
  ///
  /// - Returns: Why it is absent; nil when it is there.
  package func waitForStore() async -> String? {
    let deadline = MonotonicClock.now() + configuration.limits.storeAttachMax
    while !snapshot.withLock({ $0.isLocalReady }) {
      if let failure = supervisor?.failure, supervisor?.storePID == nil { return failure }
      guard MonotonicClock.now() < deadline else { return "it does not answer" }
      try? await Task.sleep(for: .milliseconds(5))
    }
    return nil
  }

  // MARK: Audit

  /// What this worker and its store hold right now.
  package func audit() async -> WorkerAudit {
    var audit = snapshot.withLock { $0 }
    if audit.ranks.isEmpty { audit.ranks = [RankCounts()] }
    audit.ranks[0] = pump.stats.counts
    audit.transfersInFlight = audit.ranks.reduce(0) { $0 + $1.transfersInFlight }
    for (name, breaker) in control.breakers {
      audit.peerSilent[name.text] = breaker.peerSilent
      audit.weWereLate[name.text] = breaker.weWereLate
    }
    audit.descriptors = ProcFile.names(in: "/proc/self/fd").count
    audit.sharedMemory =
      (ProcFile.text("/proc/self/maps") ?? "").split(separator: "\n")
      .count { $0.contains("remote-g2-pool") }
    let pages = (ProcFile.text("/proc/self/statm") ?? "").split(separator: " ")
    audit.residentMB = (pages.count > 1 ? Int(pages[1]) ?? 0 : 0) * 4096 / (1 << 20)
    audit.storePID = supervisor?.storePID.map(Int.init)
    audit.storeStarts = supervisor?.startCount ?? 0
    let incarnation = control.localStore?.incarnation
    if case .statsAnswer(_, let stats)? = await control.askOwnStore(
      within: .seconds(1), { .stats($0) })
    {
      audit.storeLeases = stats.leases
      audit.storePinned = stats.pinned
      audit.storeSealed = stats.sealed
      audit.storeWriting = stats.writing + stats.staged
      audit.storeIncarnation = incarnation?.description
    }
    return audit
  }
}

internal import EngineControl
public import KVConnector
public import KVTransfer
public import KVWorker
public import OSThreads
public import RemoteG2Core

/// One rank's connection of an engine that is not ours to its own store: both halves of the connector, the
/// pump that copies, and the client of the store's socket. Neither a model nor MPI, gRPC or NIXL is linked
/// for it; peers are the store's business.
///
/// The engine calls ``scheduler`` and ``worker`` from its step loop, as ``SchedulerConnector`` says.
public final class EmbeddedEngine {
  public let scheduler: RemoteG2Connector
  public let worker: RemoteG2Worker
  private let control: ControlClient
  private let pump: TransferPump

  /// - Parameters:
  ///   - name: Of the engine; its store knows it by that name.
  ///   - fingerprint: What an engine must have in common with another to share blocks with it.
  ///   - memory: The engine's own pool, which stays where it is until ``stop()`` has returned.
  ///   - store: Path of the own store's socket. The store may come and go.
  ///   - bell: Rung when the step loop should look again.
  ///   - emit: Is told every event of a fetch, on the step loop's thread; must not block.
  public init(
    name: PeerName, fingerprint: Fingerprint, memory: BlockRegion, settings: ConnectorSettings,
    store: String, ringing bell: any Bell, emit: @escaping (FetchEvent) -> Void = { _ in }
  ) {
    precondition(settings.rankCount == 1, "an embedded engine has one rank")
    precondition(
      memory.blockBytes == settings.blockBytes && memory.blockCount == settings.targetBlockCount,
      "the settings describe other memory")
    var chance = SystemRandomNumberGenerator()
    let limits = settings.limits
    control = ControlClient(
      fingerprint: fingerprint, name: name, incarnation: Incarnation(using: &chance),
      limits: limits, answers: Mailbox(ringing: bell))
    scheduler = RemoteG2Connector(control: control, settings: settings, emit: emit)
    pump = TransferPump(name: "pump-\(name)", ringing: bell) {
      PumpCore(
        target: memory, peers: MappedTransport(target: memory), rank: 0, limits: limits)
    }
    let opener = SourceOpener(
      rank: 0, fingerprint: fingerprint, stagingSlots: limits.stagingSlotsMax)
    worker = RemoteG2Worker(pump: pump, rank: 0, open: opener.open)
    control.followLocalStore(at: store, blockBytes: settings.blockBytes)
  }

  /// Ends every load and gives every lease back, where the store still listens. Blocks its thread for at
  /// most a third of a second. Called once, when no step is running any more.
  public func stop() {
    scheduler.shutDown(at: MonotonicClock.now())
    control.finishCalls(within: .milliseconds(300))
    control.stop()
    pump.stop()
  }
}

import ContentDigest
import KVConnector
import KVLayout
import KVTransfer
import KVWorker
import RemoteG2Core
import RemoteG2Engine
import TransferRig

/// One engine process: a rank group's memory, pumps and control client, and the shipped engine over
/// them. It ends with its process; another one takes its place.
final class SimEngine {
  let worker: Int
  let control: SimControl
  let spy: SpyConnector
  let connector: RemoteG2Connector
  let engine: Engine<SimChannel>
  let channel: SimChannel
  let pumps: [SimPump]
  let memories: [BlockMemory]
  let blockCount: Int
  let policy: LoadFailurePolicy
  var isAlive = true
  var pausedUntil: Int64 = 0
  /// What it was to do meanwhile, in order.
  var held: [() -> Void] = []
  /// Requests given to it and not ended, with their prompts and how much they want.
  var running: [RequestID: (prompt: [Int32], generateMax: Int)] = [:]
  /// Requests that were cancelled: whatever they gave is nobody's.
  var cancelled: Set<RequestID> = []
  /// A planned step counts only if its number is still this.
  var stepToken = 0
  var stepPlannedAt = Int64.max
  var busyUntil: Int64 = 0

  /// Its leader's connection to its own store, and its ranks'.
  var ownLink: MemoryLink? { didSet { hasLinked = hasLinked || ownLink != nil } }
  private(set) var hasLinked = false
  var rankLinks: [Int: MemoryLink] = [:]
  let stagingSlots: Int
  /// A planned wake-up of the control client counts only if its number is still this.
  var controlToken = 0
  var controlPlannedAt = Int64.max
  /// The world's part: how a rank makes a source readable.
  var open: (Int, SourceID, SourceAddress) -> SourceDescription? {
    get { opener.open }
    set { opener.open = newValue }
  }
  private final class Opener {
    var open: (Int, SourceID, SourceAddress) -> SourceDescription? = { _, _, _ in nil }
  }
  private let opener: Opener

  private let clockErrors: [SimClockError]
  private final class Clock { var now = LocalInstant(nanoseconds: 0) }
  private let clock: Clock
  var events: [FetchEvent] { log.events }
  private let log: Log
  private final class Log { var events: [FetchEvent] = [] }

  struct Configuration {
    let worker: Int
    /// One for each rank: how wrong its clock is, seen from the leader's.
    let clockErrors: [SimClockError]
    var rankCount: Int { clockErrors.count }
    let blockCount: Int
    let limits: Limits
    let proof: ProofPolicy
    let policy: LoadFailurePolicy
    let transferBlocks: Int
    let stagingSlots: Int
    let bug: PlantedBug?
  }

  init(
    _ configuration: Configuration, control: SimControl, chain: KeyChain, fabrics: [MemoryFabric],
    fault: @escaping (TransferID) -> TransferFault?
  ) {
    worker = configuration.worker
    self.control = control
    blockCount = configuration.blockCount
    policy = configuration.policy
    stagingSlots = configuration.stagingSlots
    let opener = Opener()
    self.opener = opener
    do {
      let bytes = try ToyModel().layout.blockBytes
      let memories = (0..<configuration.rankCount).map { _ in
        BlockMemory(blockBytes: bytes, blockCount: configuration.blockCount)
      }
      self.memories = memories
      let model = try ToyModel(others: memories.dropFirst().map { $0.region.base })
      pumps = memories.indices.map { rank in
        let memory = MemoryTransport(
          target: memories[rank].region, fabric: fabrics[rank], blocksPerPoll: 1)
        let faulty = FaultyTransport(memory, target: memories[rank].region, fault: fault)
        let core = PumpCore(
          target: memories[rank].region, peers: faulty, rank: rank, limits: configuration.limits,
          transferBlocksMax: configuration.transferBlocks)
        return SimPump(core: core, memory: memory, faulty: faulty)
      }
      let believes = configuration.bug == .sealBeforeProof
      let settings = try ConnectorSettings(
        rankCount: configuration.rankCount, blockBytes: bytes, tokensPerBlock: 4,
        targetBlockCount: configuration.blockCount, limits: configuration.limits,
        proof: believes ? .off : configuration.proof,
        policy: configuration.policy)
      let (clock, log) = (Clock(), Log())
      self.clock = clock
      self.log = log
      connector = RemoteG2Connector(
        control: TrustingControl(control, isTrusting: believes), settings: settings
      ) { log.events.append($0) }
      connector.expectTransfers(of: configuration.transferBlocks, toTake: .zero)
      spy = SpyConnector(connector, bug: configuration.bug)
      let halves = pumps.enumerated().map { rank, pump in
        RemoteG2Worker(pump: pump, rank: rank, open: { opener.open(rank, $0, $1) })
      }
      let errors = configuration.clockErrors
      clockErrors = errors
      channel = SimChannel(followers: Array(halves.dropFirst())) { rank in
        errors[rank].shown(at: clock.now)
      }
      channel.ignoresFollowers = configuration.bug == .rankFailureIgnored
      control.releasesTwice = configuration.bug == .doubleRelease
      engine = try Engine(
        model: model, memory: memories[0].region.base, blockCount: configuration.blockCount,
        chain: chain, channel: channel, worker: halves[0], connector: spy,
        policy: configuration.policy, limits: configuration.limits, clock: { clock.now })
    } catch {
      preconditionFailure("a simulated engine is possible: \(error)")
    }
  }

  /// Sets the engine's clock, everywhere it is read.
  func setClock(_ now: LocalInstant) {
    clock.now = now
    control.now = now
  }

  var now: LocalInstant { clock.now }
  /// What a rank's own clock shows.
  func now(onRank rank: Int) -> LocalInstant { clockErrors[rank].shown(at: clock.now) }

  /// What is held though nothing should be.
  var leftovers: [String] {
    var found: [String] = []
    let open = connector.open
    if open.fetches > 0 { found.append("\(open.fetches) fetches") }
    if open.quarantined > 0 { found.append("\(open.quarantined) quarantined blocks") }
    if open.saving > 0 { found.append("\(open.saving) saves") }
    if engine.poolCounts.held > 0 { found.append("\(engine.poolCounts.held) held blocks") }
    for (rank, pump) in pumps.enumerated() {
      let stats = pump.core.stats
      if stats.counts.transfersInFlight > 0 {
        found.append("\(stats.counts.transfersInFlight) transfers on rank \(rank)")
      }
      if stats.loads > 0 { found.append("\(stats.loads) loads on rank \(rank)") }
    }
    let leases = control.core.leases
    if leases.heldCount > 0 { found.append("\(leases.heldCount) renewals") }
    if leases.releasingCount > 0 { found.append("\(leases.releasingCount) releases") }
    return found
  }
}

/// How far a rank's clock is from its leader's, and how fast it leaves it.
struct SimClockError {
  var offset: Duration = .zero
  var drift = 0.0

  func shown(at leader: LocalInstant) -> LocalInstant {
    leader + offset + .nanoseconds(Int64(Double(leader.nanoseconds) * drift))
  }
}

import ContentDigest
import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import TransferRig

/// Some workers, their stores and the network between them, moved by one queue of events.
final class SimWorld: World {
  let profile: Profile
  let bug: PlantedBug?
  let weights: Weights
  let limits: Limits
  let rankCount: Int
  let proof: ProofPolicy
  let policy: LoadFailurePolicy
  let chain: KeyChain
  let golden: Golden
  let fingerprint: Fingerprint
  var stats = SimStats()
  var nodes: [SimNode] = []
  /// Every store there ever was, by incarnation: a mapping outlives its store.
  var storesEver: [Incarnation: SimStore] = [:]
  var requestNext: UInt64 = 1
  /// Every lease there ever was.
  var leasesEver: [LeaseID: [GrantedBlock]] = [:]
  /// Pairs of nodes that cannot reach each other.
  var partitions: Set<[Int]> = []
  var clogFactor = 1

  init(seed: UInt64, profile: Profile, bug: PlantedBug?) {
    self.profile = profile
    self.bug = bug
    var chance = Chance(seed: seed)
    var weights = Weights(profile, &chance)
    limits = Self.drawLimits(&chance)
    if bug == .rankFailureIgnored {
      // It can only be seen where ranks fail.
      weights.transferFault = [(.failAtPost, 0.1), (.halfComplete, 0.1)]
    }
    rankCount = bug == .rankFailureIgnored ? 4 : chance.pick([1, 1, 2, 3, 4])
    self.weights = weights
    // Corruption in flight is what `always` is for: the other policies do not promise to see it.
    let corrupts = weights.transferFault.contains { $0.fault == .corrupt }
    let lies = weights.hostile > 0
    proof = corrupts || lies ? .always : chance.pick([.onFailure, .onFailure, .always, .off])
    policy = chance.happens(0.9) ? .recompute : .fail
    chain = Self.makeChain()
    fingerprint = Fingerprint(
      modelDigest: "toy", layout: "toy", hashScheme: "toy", rankCount: UInt32(rankCount),
      numerics: "toy")
    golden = Golden(chain: chain, rankCount: rankCount)
    super.init(chance: chance)
    let count = self.chance.between(2...4)
    for index in 0..<count {
      nodes.append(
        SimNode(
          index: index, drift: (self.chance.unit() * 2 - 1) * weights.driftMax,
          blockCount: self.chance.between(weights.blocksMin...weights.blocksMin + 40),
          slotCount: self.chance.between(16...96)))
    }
    for node in nodes { startStore(node) }
    for node in nodes { startEngine(node) }
    planArrival()
    if !weights.ambient.isEmpty { planAmbient() }
    for node in nodes { planReaper(node) }
  }

  /// Short enough for every deadline to matter within a run.
  private static func drawLimits(_ chance: inout Chance) -> Limits {
    let limits = Limits {
      $0.leaseTTL = chance.duration(.milliseconds(300)...(.milliseconds(1200)))
      $0.leaseTTLMax = .seconds(4)
      $0.hardDeadline = chance.duration(.milliseconds(300)...(.milliseconds(2000)))
      $0.resolveMin = .milliseconds(10)
      $0.resolveMax = .milliseconds(80)
      $0.stallMin = .milliseconds(15)
      $0.pumpGapMax = .milliseconds(12)
      $0.pumpLateCharge = .milliseconds(3)
      $0.hardDeadlineMin = min(.milliseconds(200), $0.hardDeadline)
      $0.handshakeTimeout = .milliseconds(100)
      $0.breakerSilence = .milliseconds(200)
      $0.breakerBackoffMax = .milliseconds(800)
      $0.ownHeartbeat = .milliseconds(25)
      $0.ownSilenceMax = .milliseconds(100)
      $0.ownRetryMin = .milliseconds(2)
      $0.ownRetryMax = .milliseconds(20)
      $0.stagingWaitMax = .milliseconds(100)
      $0.stagingSlotsMax = chance.pick([1, 4, 32])
      $0.storeSavesInFlightMax = chance.pick([2, 16, 128])
      $0.peerHeartbeat = .milliseconds(50)
      $0.peerRefusedPause = .milliseconds(50)
      $0.deathRefusalsSpan = .milliseconds(15)
      $0.peerVanishedMax = .milliseconds(2500)
      $0.overtakenStepsMax = chance.pick([1, 8])
      $0.transfersPostedMax = chance.between(1...4)
      $0.stepTokensMax = chance.pick([8, 32, 128])
      $0.leasesMax = chance.pick([2, 8, 1024])
      $0.pinnedFractionMax = chance.pick([0.3, 0.75])
      $0.fetchesPerPeerMax = chance.pick([1, 4, 16])
    }
    return limits
  }

  private static func makeChain() -> KeyChain {
    KeyChain(
      scope: KeyScope(modelDigest: "toy", layoutDigest: "toy", numerics: "toy"), tokensPerBlock: 4,
      hash: HashFunction(name: "xxh3") { bytes in
        let digest = ContentDigest.of(bytes)
        return [digest.high, digest.low].flatMap { word in
          stride(from: UInt64(56), through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
        }
      })
  }

  // MARK: The run

  /// Runs `count` events with faults, then heals the world and runs until nothing is left to do.
  func run(steps count: Int) {
    while steps < count, violation == nil, step() {}
    guard violation == nil else { return }
    heal()
    let until = now + 30_000_000_000
    let most = steps + 500_000
    while violation == nil, now < until, steps < most {
      for _ in 0..<64 where violation == nil { _ = step() }
      if isAtRest { break }
    }
    if violation == nil { checkEnd() }
  }

  /// Takes the world apart: its events hold its processes and those hold it.
  func end() {
    for node in nodes {
      killEngine(node)
      killGhost(node)
      node.held = []
    }
    // What is still to come holds the world, and the world holds it: and what ended just now has planned more.
    queue = DeadlineHeap()
  }

  private var isAtRest: Bool {
    nodes.allSatisfy { node in
      guard let engine = node.engine, let store = node.store else { return false }
      return engine.running.isEmpty && engine.leftovers.isEmpty && store.ledger.stats.leases == 0
        && store.ledger.stats.writing == 0 && store.memory.desk.stagedCount == 0
        && engine.control.localStore != nil
        && engine.control.core.peers.values.allSatisfy {
          if case .ready = $0.state { true } else { false }
        }
    }
  }
}

/// What a run came across: a simulation that never hedges shows nothing about hedging.
package struct SimStats: Sendable, Equatable {
  package var requests = 0
  package var finished = 0
  package var pulls = 0
  package var hedges = 0
  package var fences = 0
  package var salvages = 0
  package var restarts = 0
  package var preemptions = 0
  package var cancels = 0
  package var failures = 0
  package var faults = 0
  package var pauses = 0
  package var ghosts = 0
  package var vanishings = 0
  package var sealed = 0
  package init() {}

  package static let names = [
    "requests", "finished", "pulls", "hedge", "fence", "salvage", "restart", "preemption",
    "cancel", "failure", "fault", "pause", "ghost", "vanishing",
  ]
  package var numbers: [Int] {
    [
      requests, finished, pulls, hedges, fences, salvages, restarts, preemptions, cancels, failures,
      faults, pauses, ghosts, vanishings,
    ]
  }
}

/// One worker's machine: its clock, its engine process, its store process.
final class SimNode {
  let index: Int
  let name: PeerName
  let drift: Double
  var jump: Int64 = 0
  let blockCount: Int
  let slotCount: Int
  var engine: SimEngine?
  /// An engine of the same name that was stopped and given up, and may go on one day.
  var ghost: SimEngine?
  var fabrics: [MemoryFabric] = []
  var store: SimStore?
  /// Calls that wait for a stopped store.
  var held: [() -> Void] = []

  init(index: Int, drift: Double, blockCount: Int, slotCount: Int) {
    self.index = index
    self.drift = drift
    self.blockCount = blockCount
    self.slotCount = slotCount
    name = PeerName("W\(index)")
  }

  func localTime(_ now: Int64) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(Double(now) * (1 + drift)) + jump + 1)
  }

  func globalTime(_ local: LocalInstant) -> Int64 {
    Int64(Double(local.nanoseconds - jump) / (1 + drift))
  }
}

import ContentDigest
import RemoteG2Core

/// One seeded run of nodes and engines beside them: the shipped cores, machines and codecs over simulated sockets.
package enum FleetSimulation {
  package struct Outcome: Sendable {
    package let seed: UInt64
    package let steps: Int
    package let violation: Violation?
    package let stats: FleetStats
    /// Equal for two runs of one seed.
    package let trace: UInt64
  }

  package static func run(seed: UInt64, steps: Int, bug: FleetBug? = nil) -> Outcome {
    let world = FleetWorld(seed: seed, bug: bug)
    world.run(steps: steps)
    defer { world.end() }
    return Outcome(
      seed: seed, steps: world.steps, violation: world.violation, stats: world.stats,
      trace: world.trace)
  }

  /// How many of a world, its nodes and its last engines are still in memory when it has ended.
  package static func leftovers(seed: UInt64, steps: Int) -> Int {
    var kept: [() -> AnyObject?] = []
    do {
      let world = FleetWorld(seed: seed, bug: nil)
      world.run(steps: steps)
      let all = [world] as [AnyObject] + world.nodes + world.nodes.flatMap(\.engines)
      kept = all.map { one in { [weak one] in one } }
      world.end()
    }
    return kept.count { $0() != nil }
  }
}

/// Some hosts, each with a node and one or two engines, and the network between them.
final class FleetWorld: World {
  static let tokensPerBlock = 4

  let bug: FleetBug?
  let weights: FleetWeights
  let limits: Limits
  let rankCount: Int
  let blockBytes = 24
  let slotCount: Int
  let cachesPrefixes: Bool
  var stats = FleetStats()
  var nodes: [FleetNode] = []
  var partitions: Set<[Int]> = []
  var clogFactor = 1
  private var requestNext: UInt64 = 1
  private var linkNext: UInt64 = 1
  var idsEver: Set<Incarnation> = []
  /// Who listens to nobody and says nonsense.
  var strangers: [FleetSocket] = []

  init(seed: UInt64, bug: FleetBug?) {
    self.bug = bug
    var chance = Chance(seed: seed)
    var weights = FleetWeights(&chance)
    if bug == .sealedWithoutDigest { weights.corruption = 0.05 }
    if bug == .feedGapNotSeen || bug == .evictionNotTold { weights.corruption = 0 }
    if bug == .firstRankForAll || bug == .bytesBeforeWord { weights.linkCut = 6 }
    self.weights = weights
    limits = Self.drawLimits(&chance)
    rankCount = bug == .firstRankForAll ? 3 : chance.pick([1, 1, 2, 3])
    // Small enough for everything to be evicted again and again.
    slotCount = bug == .bytesBeforeWord ? 6 : chance.between(6...60)
    cachesPrefixes = chance.happens(0.6)
    super.init(chance: chance)
    for index in 0..<self.chance.between(2...4) {
      nodes.append(
        FleetNode(self, index: index, drift: (self.chance.unit() * 2 - 1) * weights.driftMax))
    }
    for node in nodes { startNode(node) }
    for node in nodes {
      for _ in 0..<(bug == .bytesBeforeWord ? 2 : self.chance.pick([1, 1, 2, 2])) {
        node.engines.append(FleetEngine(self, node, model: self.chance.happens(0.1) ? 1 : 0))
      }
    }
    planArrival()
    if !weights.ambient.isEmpty { planAmbient() }
  }

  /// Short and small enough for all of them to matter within a run.
  private static func drawLimits(_ chance: inout Chance) -> Limits {
    Limits {
      $0.hardDeadline = chance.duration(.milliseconds(60)...(.milliseconds(600)))
      $0.hardDeadlineMin = .milliseconds(50)
      $0.ownAnswerMax = .milliseconds(20)
      $0.leaseTTL = .milliseconds(1200)
      $0.resolveMin = .milliseconds(10)
      $0.resolveMax = .milliseconds(80)
      $0.stallMin = .milliseconds(15)
      $0.ownHeartbeat = .milliseconds(25)
      $0.ownSilenceMax = .milliseconds(100)
      $0.ownRetryMin = .milliseconds(2)
      $0.ownRetryMax = .milliseconds(20)
      $0.leaseTTLMax = .seconds(4)
      $0.streamStallMin = .milliseconds(12)
      $0.paceSpanMin = .milliseconds(2)
      $0.streamStallMax = .milliseconds(50)
      $0.pauseMin = .milliseconds(5)
      $0.strangerMax = .milliseconds(200)
      $0.readerStallMax = .milliseconds(80)
      $0.readerProgressBytes = 400
      $0.feedBeat = .milliseconds(25)
      $0.feedSilenceMax = .milliseconds(80)
      $0.feedChangesMax = chance.pick([8, 64, 1000])
      $0.indexKeysMax = 4096
      $0.knownKeysBytes = 4096
      $0.pullsMax = chance.pick([1, 4, 32])
      $0.streamsMax = chance.pick([1, 2, 16])
      $0.streamWindowBytes = chance.pick([24, 200, 4096])
      $0.waitersMax = chance.pick([2, 64])
      $0.stagingSlotsMax = chance.pick([1, 4, 32])
      $0.storeSavesInFlightMax = chance.pick([2, 16, 128])
      $0.pinnedFractionMax = chance.pick([0.3, 0.75])
      $0.leasesMax = chance.pick([2, 8, 1024])
    }
  }

  // MARK: The run

  /// Runs `count` events with faults, then heals the world and runs until nothing is left to do.
  func run(steps count: Int) {
    while steps < count, violation == nil, step() {}
    guard violation == nil else { return }
    heal()
    let until = now + 20_000_000_000
    let most = steps + 400_000
    while violation == nil, now < until, steps < most {
      for _ in 0..<64 where violation == nil { _ = step() }
      if isAtRest { break }
    }
    if violation == nil { checkEnd() }
    for node in nodes {
      stats.blocksPulled += Int(node.process?.core.report.blocksPulled ?? 0)
      stats.evictions += Int(
        node.process?.core.report.pools.reduce(0) { $0 + $1.evicted } ?? 0)
      for engine in node.engines { stats.savesLost += Int(engine.scheduler.counts.savesLost) }
    }
  }

  /// Takes the world apart: its events hold its processes and those hold it.
  func end() {
    for node in nodes {
      for engine in node.engines { engine.die() }
      node.process?.die(silently: true)
      node.process = nil
      node.engines = []
    }
    for stranger in strangers { stranger.vanish() }
    strangers = []
    // What is still to come holds what is in the world: and what ended just now has planned more.
    queue = DeadlineHeap()
  }

  private var isAtRest: Bool { leftovers.isEmpty }

  func nextLink() -> UInt64 {
    defer { linkNext += 1 }
    return linkNext
  }

  func nextRequest() -> RequestID {
    defer { requestNext += 1 }
    stats.requests += 1
    return RequestID(requestNext)
  }

  // MARK: What is right

  func fingerprint(of model: Int) -> Fingerprint {
    Fingerprint(
      modelDigest: "toy \(model)", layout: "toy", hashScheme: "toy", rankCount: UInt32(rankCount),
      numerics: "toy")
  }

  /// What a block holds on a rank.
  func golden(_ key: BlockKey, rank: Int, model: Int) -> [UInt8] {
    var chance = Chance(
      seed: key.high &* 0x9E37_79B9 ^ key.low &* 0x1_0001 ^ UInt64(rank) << 56 ^ UInt64(model) << 48
    )
    return (0..<blockBytes).map { _ in UInt8(truncatingIfNeeded: chance.next()) }
  }

  // MARK: The network

  func localDelay() -> Duration { chance.duration(.microseconds(3)...(.microseconds(120))) }

  func networkDelay() -> Duration {
    chance.duration(.microseconds(20)...(weights.delayMax)) * (isHealed ? 1 : clogFactor)
  }

  func reaches(_ a: Int, _ b: Int) -> Bool { !partitions.contains([min(a, b), max(a, b)]) }

  func mayCorrupt(_ bytes: inout [UInt8]) {
    guard !isHealed, weights.corruption > 0, !bytes.isEmpty,
      chance.happens(weights.corruption)
    else { return }
    bytes[chance.below(bytes.count)] ^= UInt8(1 << chance.below(8))
  }

  func accept(_ socket: FleetSocket, at node: FleetNode) {
    guard let process = node.process else { return socket.close(abruptly: true) }
    node.whenRunning { process.accepted(socket) }
  }

  /// Planted bugs of the feed: batches of it are lost, or say nothing of what was evicted.
  func mayHide(_ queue: inout SendQueue) {
    guard bug == .feedGapNotSeen || bug == .evictionNotTold else { return }
    var intake = FrameIntake()
    let bytes = queue.withNext { Array($0) }
    var (rest, message) = (bytes[...], StreamMessage?.none)
    while message == nil, !rest.isEmpty {
      let piece = Array(rest.prefix(intake.wanted))
      rest = rest.dropFirst(piece.count)
      message = piece.withUnsafeBytes { try? intake.take($0) }
    }
    guard case .changes(let number, let changes)? = message else { return }
    queue.took(queue.count)
    let isLost = bug == .feedGapNotSeen && chance.happens(0.2)
    queue.add(
      .changes(
        number: number,
        isLost ? [] : changes.filter { bug == .feedGapNotSeen || $0.isSealed }))
  }
}

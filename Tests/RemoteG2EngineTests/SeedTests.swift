import Collectives
import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import Testing
import TransferRig

/// The behaviours of the change this project grew from, in its words. Where ours differs is said in
/// docs/failures.md.
@Suite struct `Remote-G2 worker` {
  static let prompt = (0..<50).map { Int32($0 % 90) }

  static func kinds(_ world: ToyWorld) -> [FetchEvent.Kind] { world.events.map(\.kind) }

  @Test func `failure releases once and publishes nothing`() throws {
    let world = try ToyWorld { $0.ordinal == 0 ? .failAtPost : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    world.run(5)
    #expect(world.faulty.applied[.failAtPost] == 1)
    #expect(world.control.releases.count == 1)
    #expect(Set(world.control.releases).count == 1)
    #expect(!Self.kinds(world).contains(.published))
    #expect(result?.account.keptTokens == 0)
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
    #expect(world.leaks == [])
  }

  @Test func `timeout releases transfer and lease once`() throws {
    // The 30 s bound alone: neither the stall nor the cost of the span may end it before.
    let limits = Limits { $0.stallMin = .seconds(30) }
    let world = try ToyWorld(limits: limits) { $0.ordinal == 1 ? .hang : nil }
    // So slow an engine would wait for minutes, if nothing bounded it.
    for _ in 0..<200 { world.connector.observePrefill(tokens: 16, in: .seconds(16)) }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    world.run(200)
    let started = world.events.first { $0.kind == .started }?.at
    #expect(world.connector.open.fetches == 1, "it ended before its time")
    world.run(40, each: .seconds(1))
    let result = world.finish(1, within: 5)
    #expect(result?.account.reasons == [.hardDeadline])
    let settled = result?.account.settledAt
    let waited = settled.flatMap { at in started.map { at - $0 } } ?? .zero
    #expect(waited >= .seconds(30) && waited < .seconds(32))
    #expect(world.control.releases.count == 1)
    // The transfer itself ends once, when its source is proved dead; until then its blocks are nobody's.
    #expect(world.connector.open.quarantined == 2)
    world.control.answers.append(.sourceDied(world.peer))
    world.run(5)
    #expect(world.events.count { $0.kind == .quieted } == 1)
    #expect(world.leaks == [])
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
  }

  @Test func `fallback is emitted before validity or publication`() throws {
    let world = try ToyWorld { $0.ordinal == 2 ? .failAtPost : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    _ = world.finish(1)
    let kinds = Self.kinds(world)
    let fallback = try #require(kinds.firstIndex(of: .fallback))
    let salvaged = try #require(kinds.firstIndex(of: .salvaged))
    let published = try #require(kinds.firstIndex(of: .published))
    #expect(fallback < salvaged && salvaged < published)
    #expect(world.events[fallback].outcome == "local_recompute")
    #expect(kinds.count { $0 == .fallback } == 1)
  }

  @Test func `failed is emitted after validity is marked`() throws {
    let world = try ToyWorld(policy: .fail) { $0.ordinal == 2 ? .failAtPost : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    #expect(world.finish(1)?.error == .loadFailed(.transferFailed))
    let kinds = Self.kinds(world)
    let published = try #require(kinds.firstIndex(of: .published))
    let failed = try #require(kinds.firstIndex(of: .failed))
    #expect(published < failed)
    #expect(world.events[failed].outcome == "fail_closed")
    #expect(world.events[failed].blocks == 8, "the blocks that were not loaded are surfaced")
    #expect(!kinds.contains(.fallback))
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a failed state does not propagate and reports blocks`() throws {
    let world = try ToyWorld { $0.ordinal == 3 ? .halfComplete : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    try world.submit(2, Array(Self.prompt.reversed()), hinted: false)
    let (first, second) = (world.finish(1), world.finish(2))
    world.run(5)
    #expect(world.faulty.applied[.halfComplete] == 1)
    #expect(world.worker.errorCounts.count == 6, "blocks 6 to 11 of 12 were not loaded")
    `The engine`.expectSame(first, try ToyWorld.golden(Self.prompt))
    `The engine`.expectSame(second, try ToyWorld.golden(Array(Self.prompt.reversed())))
    #expect(world.leaks == [])
  }

  @Test func `failed block ids are drained once per step`() throws {
    let world = try ToyWorld { $0.ordinal == 1 ? .halfComplete : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    _ = world.finish(1)
    world.run(20)
    #expect(!world.worker.errorCounts.isEmpty)
    #expect(world.worker.errorCounts.values.allSatisfy { $0 == 1 })
    #expect(world.worker.takeLoadErrors().isEmpty)
  }

  @Test func `abort stops the transfer, ends the lease once, and its handle not before quiet`()
    throws
  {
    let world = try ToyWorld { _ in .slow }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    world.run(4)
    let posted = world.faulty.inFlightCount
    #expect(posted > 0)
    world.engine.cancel(RequestID(1))
    world.run(3)
    #expect(world.control.releases.count == 1, "the lease ends at the abort")
    #expect(world.faulty.inFlightCount > 0, "a handle ended while its bytes were moving")
    #expect(!Self.kinds(world).contains(.quieted))
    world.run(80)
    #expect(Self.kinds(world).count { $0 == .quieted } == 1)
    #expect(Self.kinds(world).count { $0 == .aborted } == 1)
    #expect(world.control.releases.count == 1)
    #expect(world.faulty.applied.values.reduce(0, +) <= Limits().transfersPostedMax)
    #expect(world.leaks == [])
  }

  @Test func `abort after completion and of an unknown id are no-ops`() throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    _ = world.finish(1)
    world.run(3)
    let (events, releases) = (world.events.count, world.control.releases.count)
    world.engine.cancel(RequestID(1))
    world.engine.cancel(RequestID(99))
    world.connector.abort(RequestID(99), at: world.clock.now)
    world.run(3)
    #expect(world.events.count == events && world.control.releases.count == releases)
    #expect(world.leaks == [])
  }

  @Test func `recompute of a failed load rewinds to the local prefix`() throws {
    // The first 6 blocks are in G1 already; the other 6 are pulled, and fail.
    let world = try ToyWorld { _ in .failAtPost }
    let head = Array(Self.prompt.prefix(25))
    try world.submit(1, head, generate: 1, hinted: false)
    _ = world.finish(1)
    try world.fillPeer(Self.prompt)
    try world.submit(2, Self.prompt)
    let result = world.finish(2)
    #expect(result?.account.cachedTokens == 24)
    #expect(result?.account.pulledTokens == 24 && result?.account.keptTokens == 0)
    #expect(result?.account.computedPromptTokens == 26, "exactly what follows the local prefix")
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
  }

  @Test func `duplicate callbacks do not double transfer or release`() throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    for _ in 0..<40 {
      // Whatever was answered is answered twice, as a retried call would.
      let answers = world.control.answers
      for answer in answers {
        switch answer {
        case .resolved, .confirmed, .sourceDied, .leaseEnded, .announced:
          world.control.answers.append(answer)
        case .pending, .wanted, .saved: break
        }
      }
      world.run(1)
    }
    let result = world.finish(1)
    #expect(Self.kinds(world).count { $0 == .started } == 1)
    #expect(Self.kinds(world).count { $0 == .released } == 1)
    #expect(world.control.releases.count == 1)
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
    #expect(world.leaks == [])
  }

  @Test func `no raw descriptor or address in any event`() throws {
    let world = try ToyWorld { $0.ordinal == 2 ? .lateLanding : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    _ = world.finish(1)
    world.run(60)
    let addresses = [world.memory, world.peerStore.pools[0].memory].flatMap { memory -> [String] in
      (0..<64).map { block in
        String(UInt(bitPattern: memory.region.pointer(to: block)), radix: 16)
      }
    }
    let decimal = addresses.compactMap { UInt($0, radix: 16) }.map { String($0) }
    #expect(world.events.count > 6)
    for event in world.events {
      let text = "\(event)"
      #expect(!text.contains("0x"))
      for address in addresses + decimal { #expect(!text.contains(address)) }
    }
  }

  @Test func `one of several bindings failing at start does not stop the others`() throws {
    // Both pull at once; every transfer of the first fails to start.
    let world = try ToyWorld { $0.fetch == FetchID(1) ? .failAtPost : nil }
    let other = Array(Self.prompt.reversed())
    try world.fillPeer(Self.prompt)
    try world.fillPeer(other)
    try world.submit(1, Self.prompt)
    try world.submit(2, other)
    let (first, second) = (world.finish(1), world.finish(2))
    #expect(world.faulty.applied[.failAtPost] == 1)
    #expect(first?.account.reasons == [.transferFailed])
    #expect(second?.account.reasons == [] && second?.account.keptTokens == 48)
    `The engine`.expectSame(first, try ToyWorld.golden(Self.prompt))
    `The engine`.expectSame(second, try ToyWorld.golden(other))
  }

  @Test func `a missing transport falls back too`() throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    // The pump has lost the source that the leader still believes in.
    world.faulty.detach(world.peer)
    world.fabric.kill(world.peer)
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    #expect(result?.account.reasons == [.transferFailed])
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a renewal answered with gone stops the reading, and what landed is still judged`()
    throws
  {
    let world = try ToyWorld { $0.ordinal >= 3 ? .slow : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    world.run(12)
    guard case .granted(let grant)? = world.grants.first else {
      Issue.record("nothing was granted")
      return
    }
    #expect(world.connector.open.fetches == 1, "it was over before its lease")
    _ = world.peerStore.ledger.release(grant.lease, at: world.clock.now)
    world.control.answers.append(.leaseEnded(world.peer, grant.lease))
    let result = world.finish(1)
    #expect(Self.kinds(world).count { $0 == .expired } == 1)
    #expect(result?.account.reasons == [.leaseEnded])
    let kept = result?.account.keptTokens ?? 0
    #expect(kept > 0 && kept < 48)
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
    world.run(60)
    #expect(world.leaks == [])
  }
}

@Suite struct `Remote-G2 coordinator and executor` {
  static let prompts = (1...3).map { seed in (0..<33).map { Int32(($0 * seed + seed) % 90) } }

  @Test func `load errors map to exactly the affected requests`() throws {
    let world = try BlockWorld(prompts: Self.prompts, failing: [10, 11])
    for (index, prompt) in Self.prompts.enumerated() { try world.submit(UInt64(index + 1), prompt) }
    // Slots 8 to 15 are the second prompt's: its third block and all after it are computed.
    let results = Self.prompts.indices.map { world.finish(UInt64($0 + 1)) }
    for (result, prompt) in zip(results, Self.prompts) {
      `The engine`.expectSame(result, try ToyWorld.golden(prompt))
    }
    #expect(results.map { $0?.account.keptTokens } == [32, 8, 32])
    #expect(results.map { $0?.account.computedPromptTokens } == [1, 25, 1])
    #expect(world.held == 0)
  }

  @Test func `load errors of a request that vanished meanwhile affect nobody`() throws {
    let world = try BlockWorld(prompts: Self.prompts, failing: [10, 11])
    for (index, prompt) in Self.prompts.enumerated() { try world.submit(UInt64(index + 1), prompt) }
    world.run(2)
    world.engine.cancel(RequestID(2))
    let others = [world.finish(1), world.finish(3)]
    #expect(others.map { $0?.account.keptTokens } == [32, 32])
    // Its blocks have new owners now, whom the old errors must not touch.
    try world.submit(4, Self.prompts[0] + [5, 6, 7])
    `The engine`.expectSame(world.finish(4), try ToyWorld.golden(Self.prompts[0] + [5, 6, 7]))
    world.run(10)
    #expect(world.held == 0)
  }

  @Test func `a connector that reports nothing changes nothing`() throws {
    final class Nothing: SchedulerConnector {
      func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch {
        .none
      }
      func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {}
      func plan(at now: LocalInstant) -> [RankOrder] { [] }
      func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome {
        ConnectorOutcome()
      }
    }
    final class Silent: WorkerConnector {
      func begin(_ orders: [RankOrder]) {}
      func end(rank: Int, sequence: UInt64) -> RankReport {
        RankReport(rank: rank, sequence: sequence)
      }
    }
    let silent = Silent()
    #expect(silent.takeLoadErrors() == [])
    silent.abort(FetchID(1))
    let world = try BlockWorld(connector: Nothing(), worker: silent)
    try world.submit(1, Self.prompts[0])
    `The engine`.expectSame(world.finish(1), try ToyWorld.golden(Self.prompts[0]))
    #expect(world.held == 0)
  }

  @Test func `unusable configuration fails at start-up`() {
    #expect(throws: ConnectorSettings.Invalid.ranks(0)) {
      try ConnectorSettings(rankCount: 0, blockBytes: 64, tokensPerBlock: 4, targetBlockCount: 8)
    }
    #expect(throws: ConnectorSettings.Invalid.blockBytes(0)) {
      try ConnectorSettings(blockBytes: 0, tokensPerBlock: 4, targetBlockCount: 8)
    }
    #expect(throws: ConnectorSettings.Invalid.targetBlocks(0)) {
      try ConnectorSettings(blockBytes: 64, tokensPerBlock: 4, targetBlockCount: 0)
    }
  }

  @Test func `a coordinator is refused unless every rank has a worker half`() {
    #expect(throws: GroupCoordinator.Invalid.ranks(expected: 2, withWorker: 1)) {
      try GroupCoordinator(rankCount: 2, workerRanks: [0])
    }
  }

  /// Writes down what a coordinator asks of its engine.
  private final class Recorder: LoadRecovery {
    var calls: [String] = []
    func resumeLoaded(_ result: LoadResult, at now: LocalInstant) {
      calls.append("done \(result.request.value)")
    }
    func recomputeFailedLoad(_ result: LoadResult, at now: LocalInstant) -> Bool {
      calls.append("failed \(result.request.value)")
      return true
    }
    func dropLoad(_ result: LoadResult, at now: LocalInstant) {
      calls.append("dropped \(result.request.value)")
    }
    func endRequest(_ request: RequestID, because reason: FallbackReason, at now: LocalInstant) {
      calls.append("ended \(request.value)")
    }
    func giveBack(_ blocks: [BlockIndex]) {
      if !blocks.isEmpty { calls.append("given back \(blocks.map(\.index))") }
    }
    func requests(loadingInto blocks: Set<BlockIndex>) -> [RequestID] { [] }
    func loadingBlocks(of request: RequestID) -> [SealedBlock] { [] }
  }

  private final class Scripted: SchedulerConnector {
    var outcome = ConnectorOutcome()
    func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch { .none }
    func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {}
    func plan(at now: LocalInstant) -> [RankOrder] { [] }
    func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome { outcome }
  }

  @Test func `in one step saves come first, then failures, cancels, finished loads, quieted`()
    throws
  {
    let now = LocalInstant(nanoseconds: 1)
    let block = SealedBlock(block: BlockIndex(1), key: BlockKey(high: 1, low: 1))
    let (connector, engine) = (Scripted(), Recorder())
    connector.outcome.quieted = [BlockIndex(9)]
    connector.outcome.released = [BlockIndex(8)]
    connector.outcome.settled = [
      LoadResult(request: RequestID(1), valid: [block], failed: [], reason: nil, settledAt: now),
      LoadResult(
        request: RequestID(2), valid: [], failed: [BlockIndex(3)], reason: .cancelled,
        settledAt: now),
      LoadResult(
        request: RequestID(3), valid: [], failed: [BlockIndex(4)], reason: .stalled,
        settledAt: now),
    ]
    var coordinator = try GroupCoordinator(rankCount: 1, workerRanks: [0])
    coordinator.absorb(
      [RankReport(rank: 0, sequence: 1)], connector: connector, engine: engine, at: now)
    #expect(
      engine.calls == [
        "given back [8]", "failed 3", "dropped 2", "done 1", "given back [9]",
      ])
  }
}

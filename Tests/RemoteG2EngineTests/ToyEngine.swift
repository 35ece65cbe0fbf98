import Collectives
import ContentDigest
import Foundation
import KVConnector
import KVLayout
import KVTransfer
import LocalStore
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import TransferRig

/// One engine over the shipped scheduler, connector, pump core and store ledgers, with a clock that
/// the test moves.
final class ToyWorld {
  typealias ToyChannel = SoloStepChannel<StepPlan, RankReport>
  let model: ToyModel
  let clock = ToyClock()
  let control: ToyControl
  let memory: BlockMemory
  let peerStore: MemoryStore
  let peer = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
  let fabric = MemoryFabric()
  let faulty: FaultyTransport
  let connector: RemoteG2Connector
  let engine: Engine<ToyChannel>
  /// This rank's connections to own stores, oldest first.
  let rankLinks = Links()
  final class Links { var all: [MemoryLink] = [] }
  let worker: ToyWorker
  let pump: PumpCore
  let chain: KeyChain
  var events: [FetchEvent] { log.events }
  var grants: [ResolveAnswer] { control.grants }
  private let log = Log()
  private var results: [RequestID: RequestResult] = [:]

  final class Log { var events: [FetchEvent] = [] }

  static let hash = HashFunction(name: "xxh3") { bytes in
    let digest = ContentDigest.of(bytes)
    return [digest.high, digest.low, digest.high, digest.low].flatMap { word in
      stride(from: UInt64(56), through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
    }
  }

  init(
    blocks: Int = 64, hasLocal: Bool = false, proof: ProofPolicy = .onFailure,
    policy: LoadFailurePolicy = .recompute, blocksPerPoll: Int = 1, transferBlocks: Int = 2,
    limits: Limits = Limits(),
    fault: @escaping (TransferID) -> TransferFault? = { _ in nil }
  ) throws {
    model = try ToyModel()
    let bytes = model.layout.blockBytes
    memory = BlockMemory(blockBytes: bytes, blockCount: blocks)
    control = ToyControl(limits: limits)
    let fingerprint = control.fingerprint
    peerStore = MemoryStore(
      incarnation: peer.incarnation, fingerprint: fingerprint, slotCount: 64, blockBytes: bytes,
      limits: limits)
    chain = KeyChain(
      scope: KeyScope(modelDigest: "toy", layoutDigest: model.layout.canonicalText, numerics: "t"),
      tokensPerBlock: model.layout.tokensPerBlock,
      hash: Self.hash)
    fabric.publish(peer, peerStore.pools[0].memory.region)
    let inner = MemoryTransport(
      target: memory.region, fabric: fabric, blocksPerPoll: blocksPerPoll)
    faulty = FaultyTransport(inner, target: memory.region, fault: fault)
    pump = PumpCore(
      target: memory.region, peers: faulty, rank: 0, limits: limits,
      transferBlocksMax: transferBlocks)
    let (clock, log) = (clock, log)
    let settings = try ConnectorSettings(
      blockBytes: bytes, tokensPerBlock: model.layout.tokensPerBlock, targetBlockCount: blocks,
      limits: limits, proof: proof, policy: policy)
    connector = RemoteG2Connector(control: control, settings: settings) { log.events.append($0) }
    connector.expectTransfers(of: transferBlocks, toTake: .zero)
    let (control, peerStore, peer, rankLinks) = (control, peerStore, peer, rankLinks)
    worker = ToyWorker(pump, clock: clock) { source, address in
      guard case .own = address else {
        return .mapped(peerStore.pools[0].memory.region, owner: peerStore)
      }
      guard source == peer || source == control.localStore, let store = control.ownStore else {
        return nil
      }
      let link = control.makeLink()
      var welcomed: (MemoryStore.MemoryPool, BlockMemory)?
      link.onMessage = { welcomed = $1 ?? welcomed }
      let carry = link.carry
      link.carry = { $1() }
      guard store.connect(link) else { return nil }
      rankLinks.all.append(link)
      _ = link.send(
        .hello(
          LocalHello(
            engine: control.incarnation, role: .rank(0), fingerprint: fingerprint,
            stagingSlots: 8)))
      guard let (pool, staging) = welcomed else { return nil }
      link.carry = carry
      return .mapped(
        pool.memory.region, words: pool.words, link: MemoryStagingLink(link, staging), owner: pool)
    }
    engine = try Engine(
      model: model, memory: memory.region.base, blockCount: blocks, chain: chain,
      channel: ToyChannel(), worker: worker, connector: connector,
      policy: policy, limits: limits, clock: { clock.now })
    control.peers["P"] = .ready(peer)
    control.stores[peer] = peerStore
    control.answers.append(
      .announced(
        peer, [.remote(RankPool(metadata: [], address: 0, slotCount: 64, blockBytes: bytes))]))
    if hasLocal { replaceLocal(2) }
    run(4)
  }

  /// Fills the peer's store with the blocks of a prompt, as its own engine would have.
  func fillPeer(_ prompt: [Int32], blocks: Int? = nil) throws {
    try Self.fill(peerStore, chain.keys(of: prompt).prefix(blocks ?? .max), self.blocks(of: prompt))
  }

  /// Puts blocks into a store as its own engine would have.
  static func fill(
    _ store: MemoryStore, _ keys: some Collection<BlockKey>, _ bytes: BlockMemory
  ) throws {
    let pool = store.pools[0]
    let writer = PoolWriter.Pool(
      base: pool.memory.region.base, blockBytes: bytes.region.blockBytes, words: pool.words)
    var parent: BlockKey?
    for (index, key) in keys.enumerated() {
      defer { parent = key }
      guard case .reserved(let slot, let generation) = store.ledger.pool.begin(key, after: parent)
      else { continue }
      let copy = StageCopy(
        engine: store.incarnation, key: key, slot: slot, generation: generation, sources: [],
        expected: nil)
      PoolWriter.begin(copy, [writer])
      guard
        let digests = PoolWriter.finish(
          copy, from: [UnsafeRawPointer(bytes.region.pointer(to: index))], [writer])
      else { continue }
      store.ledger.pool.seal(slot, generation: generation, digests: digests)
    }
  }

  func hint() throws -> Hint {
    try Hint(version: 1, store: "P", blocksMax: nil, limits: Limits())
  }

  func submit(
    _ id: UInt64, _ prompt: [Int32], generate: Int = 8, hinted: Bool = true
  ) throws {
    try engine.submit(
      RequestSpec(
        id: RequestID(id), prompt: prompt, generateMax: generate, hint: hinted ? hint() : nil,
        ignoresEnd: true, wantsDigests: true))
  }

  func run(_ steps: Int, each: Duration = .milliseconds(1)) {
    for _ in 0..<steps {
      clock.now = clock.now + each
      control.now = clock.now
      control.tick()
      _ = engine.step()
      for result in engine.takeFinished() { results[result.id] = result }
    }
  }

  /// Steps until a request has ended. Nil when it does not within the bound.
  func finish(_ id: UInt64, within steps: Int = 2000) -> RequestResult? {
    for _ in 0..<steps {
      if let result = results[RequestID(id)] { return result }
      run(1)
    }
    return results[RequestID(id)]
  }

  /// What a request gives when nothing is shared with it.
  static func golden(_ prompt: [Int32], generate: Int = 8) throws -> RequestResult {
    let world = try ToyWorld()
    try world.submit(1, prompt, generate: generate, hinted: false)
    guard let result = world.finish(1) else { throw CancellationError() }
    return result
  }

  /// Nothing is held, leased, in flight or quarantined.
  var leaks: [String] {
    var leaks: [String] = []
    let open = connector.open
    if open.fetches > 0 { leaks.append("\(open.fetches) fetches") }
    if open.quarantined > 0 { leaks.append("\(open.quarantined) quarantined") }
    if open.saving > 0 { leaks.append("\(open.saving) saving") }
    if engine.poolCounts.held > 0 { leaks.append("\(engine.poolCounts.held) blocks held") }
    if faulty.inFlightCount > 0 { leaks.append("\(faulty.inFlightCount) transfers") }
    for (source, store) in control.stores where store.ledger.stats.leases > 0 {
      leaks.append("\(store.ledger.stats.leases) leases of \(source)")
    }
    if let own = control.ownStore {
      if own.ledger.stats.leases > 0 { leaks.append("\(own.ledger.stats.leases) own leases") }
      if own.desk.stagedCount > 0 { leaks.append("\(own.desk.stagedCount) blocks staged") }
    }
    return leaks
  }
}

/// Prompts that share nothing.
func samplePrompts(_ count: Int, tokens: Int) -> [[Int32]] {
  (0..<count).map { seed in
    (0..<tokens).map { place -> Int32 in
      let value = place * (seed + 2) + seed
      return Int32(value % 90)
    }
  }
}

import Collectives
import ContentDigest
import Foundation
import KVConnector
import KVLayout
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation

/// One engine over the shipped scheduler, connector, pump core and store ledgers, with a clock that
/// the test moves.
final class ToyWorld {
  typealias ToyChannel = SoloStepChannel<StepPlan, RankReport>
  let model: ToyModel
  let clock = ToyClock()
  let control = ToyControl()
  let memory: BlockMemory
  let peerMemory: BlockMemory
  var localMemory: BlockMemory
  let peer = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
  let fabric = MemoryFabric()
  let faulty: FaultyTransport
  let connector: RemoteG2Connector
  let engine: Engine<ToyChannel>
  let worker: ToyWorker
  let pump: PumpCore
  let chain: KeyChain
  var events: [FetchEvent] { log.events }
  var grants: [ResolveAnswer] { control.grants }
  private let log = Log()
  private var results: [RequestID: RequestResult] = [:]

  final class Log { var events: [FetchEvent] = [] }

  init(
    blocks: Int = 64, hasLocal: Bool = false, proof: ProofPolicy = .proven(.onFailure),
    policy: LoadFailurePolicy = .recompute, blocksPerPoll: Int = 1, transferBlocks: Int = 2,
    limits: Limits = Limits(),
    fault: @escaping (TransferID) -> TransferFault? = { _ in nil }
  ) throws {
    model = try ToyModel()
    let bytes = model.layout.blockBytes
    memory = BlockMemory(blockBytes: bytes, blockCount: blocks)
    peerMemory = BlockMemory(blockBytes: bytes, blockCount: 64)
    localMemory = BlockMemory(blockBytes: bytes, blockCount: 64)
    chain = KeyChain(
      scope: KeyScope(modelDigest: "toy", layoutDigest: model.layout.canonicalText, numerics: "t"),
      tokensPerBlock: model.layout.tokensPerBlock,
      hash: HashFunction(name: "xxh3") { bytes in
        let digest = ContentDigest.of(bytes)
        return [digest.high, digest.low, digest.high, digest.low].flatMap { word in
          stride(from: UInt64(56), through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
        }
      })
    fabric.publish(peer, peerMemory.region)
    let inner = MemoryTransport(
      target: memory.region, fabric: fabric, blocksPerPoll: blocksPerPoll)
    faulty = FaultyTransport(inner, target: memory.region, fault: fault)
    pump = PumpCore(target: memory.region, peers: faulty, rank: 0, limits: limits)
    let (clock, log) = (clock, log)
    var settings = try ConnectorSettings(
      blockBytes: bytes, tokensPerBlock: model.layout.tokensPerBlock, targetBlockCount: blocks,
      limits: limits, proof: proof, policy: policy)
    settings.transferBlocks = transferBlocks
    connector = RemoteG2Connector(control: control, settings: settings) { log.events.append($0) }
    worker = ToyWorker(pump, clock: clock)
    engine = try Engine(
      model: model, memory: memory.region.base, blockCount: blocks, chain: chain,
      channel: ToyChannel(), worker: worker, connector: connector,
      policy: policy, limits: limits, clock: { clock.now })
    control.peers["P"] = .ready(peer)
    control.ledgers[peer] = StoreLedger(
      incarnation: peer.incarnation, slotCount: 64, rankCount: 1, limits: limits)
    pump.handle(.attach(peer, .mapped(peerMemory.region, owner: 0)), at: clock.now)
    pump.handle(.transferBlocksMax(transferBlocks), at: clock.now)
    if hasLocal {
      let local = SourceID.local(Incarnation(high: 2, low: 2))
      control.local = local
      control.ledgers[local] = StoreLedger(
        incarnation: local.incarnation, slotCount: 64, rankCount: 1, limits: limits)
      pump.handle(.attach(local, .mapped(localMemory.region, owner: localMemory)), at: clock.now)
    }
    run(2)
  }

  /// Fills the peer's store with the blocks of a prompt, as its own engine would have.
  func fillPeer(_ prompt: [Int32], blocks: Int? = nil) throws {
    let other = try ToyModel()
    let scratch = BlockMemory(blockBytes: other.layout.blockBytes, blockCount: prompt.count / 4 + 1)
    _ = other.forward(
      [
        SequenceSpan(
          tokens: prompt, position: 0, blocks: (0...Int32(prompt.count / 4)).map { $0 },
          wantsLogits: false)
      ], pool: scratch.region.base)
    for (index, key) in chain.keys(of: prompt).prefix(blocks ?? .max).enumerated() {
      guard
        case .reserved(let slot, let generation)? = control.ledgers[peer]?.pool.reserve(
          key, until: clock.now + .seconds(30))
      else { continue }
      memcpy(
        peerMemory.region.pointer(to: slot.index), scratch.region.pointer(to: index),
        other.layout.blockBytes)
      _ = control.ledgers[peer]?.pool.seal(
        slot, generation: generation, rank: 0,
        digest: ContentDigest.of(peerMemory.region.bytes(of: slot.index)))
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
    for (source, ledger) in control.ledgers where ledger.stats.leases > 0 {
      leaks.append("\(ledger.stats.leases) leases of \(source)")
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

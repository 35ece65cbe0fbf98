import Collectives
import KVConnector
import KVLayout
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation

/// One engine over a connector of the test's own, with a shelf of blocks in memory.
final class BlockWorld {
  let model: ToyModel
  let engine: Engine<ToyWorld.ToyChannel>
  private let memory: BlockMemory
  private let shelf: BlockMemory
  private let clock = ToyClock()
  private var results: [RequestID: RequestResult] = [:]

  /// - Parameters:
  ///   - prompts: Their blocks are on the shelf, in order.
  ///   - failing: Places on the shelf that cannot be read.
  convenience init(prompts: [[Int32]], failing: Set<Int>) throws {
    let model = try ToyModel()
    let chain = try ToyWorld().chain
    let shelf = BlockMemory(blockBytes: model.layout.blockBytes, blockCount: 64)
    var index: [BlockKey: SlotIndex] = [:]
    var next = 0
    for prompt in prompts {
      let blocks = (0...Int32(prompt.count / 4)).map { $0 + Int32(next) }
      _ = model.forward(
        [SequenceSpan(tokens: prompt, position: 0, blocks: blocks, wantsLogits: false)],
        pool: shelf.region.base)
      for key in chain.keys(of: prompt) {
        index[key] = SlotIndex(next)
        next += 1
      }
    }
    let target = BlockMemory(blockBytes: model.layout.blockBytes, blockCount: 64)
    try self.init(
      connector: BlockConnector(shelf: index, steps: 4),
      worker: BlockWorker(
        shelf: shelf.region, target: target.region,
        failing: Set(failing.map { SlotIndex($0) })), shelf: shelf, memory: target)
  }

  convenience init(connector: any SchedulerConnector, worker: any WorkerConnector) throws {
    let bytes = try ToyModel().layout.blockBytes
    try self.init(
      connector: connector, worker: worker, shelf: BlockMemory(blockBytes: bytes, blockCount: 1),
      memory: BlockMemory(blockBytes: bytes, blockCount: 64))
  }

  private init(
    connector: any SchedulerConnector, worker: any WorkerConnector, shelf: BlockMemory,
    memory: BlockMemory
  ) throws {
    model = try ToyModel()
    self.memory = memory
    self.shelf = shelf
    let clock = clock
    engine = try Engine(
      model: model, memory: memory.region.base, blockCount: 64, chain: try ToyWorld().chain,
      channel: ToyWorld.ToyChannel(), worker: worker, connector: connector, policy: .recompute,
      limits: Limits(), clock: { clock.now })
  }

  func submit(_ id: UInt64, _ prompt: [Int32]) throws {
    try engine.submit(
      RequestSpec(
        id: RequestID(id), prompt: prompt, generateMax: 8, ignoresEnd: true, wantsDigests: true))
  }

  func run(_ steps: Int) {
    for _ in 0..<steps {
      clock.now = clock.now + .milliseconds(1)
      _ = engine.step()
      for result in engine.takeFinished() { results[result.id] = result }
    }
  }

  func finish(_ id: UInt64) -> RequestResult? {
    for _ in 0..<500 where results[RequestID(id)] == nil { run(1) }
    return results[RequestID(id)]
  }

  var held: Int { engine.poolCounts.held }
}

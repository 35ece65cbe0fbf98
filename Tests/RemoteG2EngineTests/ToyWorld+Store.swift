import ContentDigest
import KVConnector
import KVLayout
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation

/// The own store of a toy world: it comes, dies, is replaced, and is looked into.
extension ToyWorld {
  /// The own store, if one was there, dies; a new one, empty, takes its place.
  func replaceLocal(_ number: UInt64, slots: Int = 64) {
    control.replaceOwnStore(
      MemoryStore(
        incarnation: Incarnation(high: number, low: number), fingerprint: control.fingerprint,
        slotCount: slots, blockBytes: model.layout.blockBytes, limits: Limits()))
  }

  /// The own store dies, and none takes its place.
  func loseLocal() { control.replaceOwnStore(nil) }

  /// The bytes of a prompt's blocks, as an engine computes them.
  func blocks(of prompt: [Int32]) throws -> BlockMemory {
    let other = try ToyModel()
    let scratch = BlockMemory(blockBytes: other.layout.blockBytes, blockCount: prompt.count / 4 + 1)
    _ = other.forward(
      [
        SequenceSpan(
          tokens: prompt, position: 0, blocks: (0...Int32(prompt.count / 4)).map { $0 },
          wantsLogits: false)
      ], pool: scratch.region.base)
    return scratch
  }

  /// What of a prompt's whole blocks the own store holds, and which of those with the wrong bytes.
  func inLocal(_ prompt: [Int32]) throws -> (sealed: Int, wrong: [Int]) {
    inLocal(prompt, try blocks(of: prompt))
  }

  /// - Parameter right: The bytes that its blocks must have.
  func inLocal(_ prompt: [Int32], _ right: BlockMemory) -> (sealed: Int, wrong: [Int]) {
    var (sealed, wrong) = (0, [Int]())
    guard let store = control.ownStore else { return (0, []) }
    for (index, key) in chain.keys(of: prompt).enumerated() {
      guard let slot = store.ledger.pool.slot(holding: key) else { continue }
      sealed += 1
      if ContentDigest.of(store.pools[0].memory.region.bytes(of: slot.index))
        != ContentDigest.of(right.region.bytes(of: index))
      {
        wrong.append(index)
      }
    }
    return (sealed, wrong)
  }

  /// Another engine of the same name saves a prompt's blocks into the own store.
  func saveAsAnother(_ prompt: [Int32]) throws {
    guard let store = control.ownStore else { return }
    try Self.fill(store, chain.keys(of: prompt), blocks(of: prompt))
  }
}

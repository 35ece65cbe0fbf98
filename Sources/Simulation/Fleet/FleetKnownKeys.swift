import LocalStore
import RemoteG2Core

/// The table of known keys of one life of a node, in plain memory.
final class FleetKnownKeys {
  let table: KnownKeys
  private let memory: UnsafeMutableRawPointer

  init(count: Int) {
    memory = .allocate(byteCount: count, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
    table = KnownKeys(memory, count: count)
  }

  /// Somebody has it.
  func note(_ key: BlockKey) { table.note(FeedChange(key: key, isSealed: true)) }

  deinit { memory.deallocate() }
}

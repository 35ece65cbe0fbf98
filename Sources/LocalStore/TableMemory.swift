internal import CLinuxShims
internal import Glibc
internal import RemoteG2Core
internal import Synchronization

/// The words of a ``SlotTable`` in a memory file, which one process at a time maps.
package final class TableMemory: TableWords, @unchecked Sendable {
  // @unchecked: an address and a size; every access is atomic.
  package let wordCount: Int
  /// Given to the node's keeper.
  package let descriptor: Int32
  private let mapping: UnsafeMutableRawPointer

  /// Makes one.
  package convenience init(wordCount: Int) throws(PoolError) {
    let descriptor = clinux_memfd("remote-g2-table", wordCount * 8, nil)
    guard descriptor >= 0 else {
      throw .memory(bytes: wordCount * 8, reason: String(cString: strerror(-descriptor)))
    }
    try self.init(adopting: descriptor)
  }

  /// Maps one, of whatever size.
  ///
  /// - Parameter descriptor: This table's to close from now on.
  package init(adopting descriptor: Int32) throws(PoolError) {
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_size >= 8, status.st_size % 8 == 0 else {
      close(descriptor)
      throw .notThePool("a table of \(status.st_size) bytes")
    }
    let bytes = Int(status.st_size)
    guard let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else {
      let reason = String(cString: strerror(errno))
      close(descriptor)
      throw .cannotMap(reason: reason)
    }
    self.descriptor = descriptor
    self.mapping = mapping
    wordCount = bytes / 8
  }

  deinit {
    munmap(mapping, wordCount * 8)
    close(descriptor)
  }

  private var words: UnsafeMutablePointer<Atomic<UInt64>> {
    mapping.assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  package func load(_ index: Int) -> UInt64 { words[index].load(ordering: .acquiring) }
  package func store(_ index: Int, _ value: UInt64) {
    words[index].store(value, ordering: .relaxed)
  }
  package func publish(_ index: Int, _ value: UInt64) {
    words[index].store(value, ordering: .releasing)
  }
  package func fence() { atomicMemoryFence(ordering: .sequentiallyConsistent) }
}

package import KVTransfer

/// Memory of equal blocks that ends with its owner.
package final class BlockMemory: @unchecked Sendable {
  // @unchecked: used by one simulation or test, on one thread.
  package let region: BlockRegion

  package init(blockBytes: Int, blockCount: Int) {
    let base = UnsafeMutableRawPointer.allocate(
      byteCount: blockBytes * blockCount, alignment: 4096)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: blockBytes * blockCount)
    region = BlockRegion(base: base, blockBytes: blockBytes, blockCount: blockCount)
  }

  deinit { region.base.deallocate() }
}

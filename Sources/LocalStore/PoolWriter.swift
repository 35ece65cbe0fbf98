internal import ContentDigest
internal import Glibc
package import RemoteG2Core

/// How a store writes its pools. It is the only one that does.
package enum PoolWriter {
  /// One rank's pool.
  package struct Pool {
    package let base: UnsafeMutableRawPointer
    package let blockBytes: Int
    package let words: GenerationWords

    package init(base: UnsafeMutableRawPointer, blockBytes: Int, words: GenerationWords) {
      self.base = base
      self.blockBytes = blockBytes
      self.words = words
    }

    func bytes(of slot: SlotIndex) -> UnsafeRawBufferPointer {
      UnsafeRawBufferPointer(start: base + slot.index * blockBytes, count: blockBytes)
    }
  }

  /// On every rank, before any rank's bytes change.
  package static func begin(_ copy: StageCopy, _ pools: [Pool]) {
    for pool in pools { pool.words.beginWriting(copy.slot, copy.generation) }
  }

  /// Copies, and digests what is in the slots then.
  ///
  /// - Parameter sources: Where each rank staged its bytes; nil: that memory is gone.
  /// - Returns: The digests, by rank; nil when the bytes are not those expected. Then the slot stays
  ///   unreadable.
  package static func finish(
    _ copy: StageCopy, from sources: [UnsafeRawPointer?], _ pools: [Pool]
  ) -> [Digest128]? {
    precondition(sources.count == pools.count, "one source a rank")
    var digests: [Digest128] = []
    for (rank, pool) in pools.enumerated() {
      guard let source = sources[rank] else { return nil }
      memcpy(pool.base + copy.slot.index * pool.blockBytes, source, pool.blockBytes)
      digests.append(ContentDigest.of(pool.bytes(of: copy.slot), key: copy.key, rank: rank))
    }
    if let expected = copy.expected, expected != digests { return nil }
    for pool in pools { pool.words.makeReadable(copy.slot, copy.generation) }
    return digests
  }
}

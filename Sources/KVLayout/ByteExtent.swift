/// A run of bytes, counted from the start of a pool.
public struct ByteExtent: Equatable, Hashable, Sendable {
  public let offset: Int
  public let count: Int

  public init(offset: Int, count: Int) {
    self.offset = offset
    self.count = count
  }

  /// The first byte after the run.
  public var end: Int { offset + count }
}

extension BlockLayout {
  /// Lists the memory of `blocks`, in the order given.
  ///
  /// A block is contiguous, so neighbours in `blocks` that are neighbours in the pool are merged.
  ///
  /// - Parameter blocks: Pool positions. May repeat; may be empty.
  /// - Returns: Extents in bytes from the start of the pool.
  /// - Throws: ``LayoutError/blockOutOfRange(_:blockCount:)`` for the first bad index; nothing is
  ///   returned for the good ones before it.
  /// - Complexity: O(`blocks.count`).
  public func extents(of blocks: [Int], blockCount: Int) throws(LayoutError) -> [ByteExtent] {
    var extents: [ByteExtent] = []
    for block in blocks {
      guard block >= 0, block < blockCount else {
        throw .blockOutOfRange(block, blockCount: blockCount)
      }
      let offset = block * blockBytes
      if let last = extents.last, last.end == offset {
        extents[extents.count - 1] = ByteExtent(
          offset: last.offset, count: last.count + blockBytes)
      } else {
        extents.append(ByteExtent(offset: offset, count: blockBytes))
      }
    }
    return extents
  }

  /// The bytes of the first `tokens` tokens of a block, from the start of that block.
  ///
  /// A partly filled block is strided: one run per layer, K or V, and head.
  public func extents(ofFirst tokens: Int) -> [ByteExtent] {
    precondition(tokens >= 0 && tokens <= tokensPerBlock, "a block has no token \(tokens)")
    if tokens == 0 { return [] }
    if tokens == tokensPerBlock { return [ByteExtent(offset: 0, count: blockBytes)] }
    let run = tokens * headSize * element.sizeBytes
    return (0..<layerCount * 2 * kvHeadsPerRank).map {
      ByteExtent(offset: $0 * headBytes, count: run)
    }
  }

  /// Where one head's rows of one layer start within a block. `plane` is 0 for K, 1 for V.
  public func offset(layer: Int, plane: Int, head: Int) -> Int {
    ((layer * 2 + plane) * kvHeadsPerRank + head) * headBytes
  }
}

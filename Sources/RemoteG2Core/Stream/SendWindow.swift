/// The pinned blocks of an answer that are being sent, as one run of bytes: of each block its frame, and after it
/// its bytes on every rank.
struct SendWindow: Sendable {
  let blocks: [ServedBlock]
  /// Of all blocks, one after another; they are of one length.
  let frames: [UInt8]
  private let frameBytes: Int
  private let blockBytes: Int
  private let rankCount: Int
  /// Bytes of the run that have been sent.
  private var done = 0

  init(_ blocks: [ServedBlock], of terms: PoolTerms) {
    self.blocks = blocks
    blockBytes = terms.blockBytes
    rankCount = terms.rankCount
    frames = blocks.flatMap {
      StreamCodec.encode(.block(position: $0.position, digests: $0.digests))
    }
    frameBytes = blocks.isEmpty ? 0 : frames.count / blocks.count
    precondition(frameBytes * blocks.count == frames.count, "frames of blocks are of one length")
  }

  private var stride: Int { frameBytes + blockBytes * rankCount }
  /// How many blocks are sent whole.
  var sentCount: Int { blocks.isEmpty ? 0 : done / stride }
  var isSent: Bool { sentCount == blocks.count }

  mutating func sent(_ count: Int) {
    done += count
    precondition(done <= stride * blocks.count, "more was sent than there is")
  }

  /// What comes next, in order.
  ///
  /// - Parameters:
  ///   - bytes: Of all parts together, at most.
  ///   - most: How many parts.
  func parts(atMost bytes: Int, _ most: Int) -> [ServeMachine.Part] {
    var parts: [ServeMachine.Part] = []
    var (at, left) = (done, bytes)
    while left > 0, parts.count < most, at < stride * blocks.count {
      let (place, within) = at.quotientAndRemainder(dividingBy: stride)
      let count: Int
      if within < frameBytes {
        count = min(left, frameBytes - within)
        let first = place * frameBytes + within
        parts.append(.frames(first..<first + count))
      } else {
        let (rank, offset) = (within - frameBytes).quotientAndRemainder(dividingBy: blockBytes)
        count = min(left, blockBytes - offset)
        parts.append(.body(blocks[place].slot, rank: rank, offset: offset, count: count))
      }
      at += count
      left -= count
    }
    return parts
  }
}

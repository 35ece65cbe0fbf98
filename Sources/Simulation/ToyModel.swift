package import KVLayout
internal import RemoteG2Engine

/// A model whose KV is a function of its tokens, and whose next token is a function of every byte of
/// all its KV on all ranks: one wrong byte anywhere is a wrong token.
///
/// On the leader it computes for the whole group, as the reductions of a real forward pass make all
/// ranks compute together.
package final class ToyModel: ForwardPass {
  package let layout: BlockLayout
  package let contextLength = 4096
  package let vocabularySize = 97
  package let endTokens: Set<Int32> = []
  /// The other ranks' G1, in rank order from rank 1.
  private let others: [UnsafeMutableRawPointer]
  package private(set) var steps = 0

  /// Eight bytes each of a token's K and V.
  private let rowWords: Int

  package init(
    tokensPerBlock: Int = 4, others: [UnsafeMutableRawPointer] = []
  ) throws(LayoutError) {
    layout = try BlockLayout(
      layerCount: 1, kvHeadsPerRank: 1, headSize: 4, tokensPerBlock: tokensPerBlock,
      rankCount: 1 + others.count)
    self.others = others
    rowWords = layout.blockBytes / tokensPerBlock / 16
  }

  package func forward(
    _ spans: [SequenceSpan], pool: UnsafeMutableRawPointer
  ) -> [[Float]] {
    steps += 1
    var logits: [[Float]] = []
    for span in spans {
      var state: UInt64 = span.position == 0 ? 1 : read(at: span.position - 1, span, pool, rank: 0)
      for (index, token) in span.tokens.enumerated() {
        state = state &* 1_000_003 &+ UInt64(UInt32(bitPattern: token)) &+ 17
        write(state, at: span.position + index, span, pool, rank: 0)
        for (rank, other) in others.enumerated() {
          write(state, at: span.position + index, span, other, rank: rank + 1)
        }
      }
      guard span.wantsLogits else { continue }
      var hash: UInt64 = 7
      for place in 0..<span.position + span.tokens.count {
        hash = hash &* 31 &+ read(at: place, span, pool, rank: 0)
        for (rank, other) in others.enumerated() {
          hash = hash &* 31 &+ read(at: place, span, other, rank: rank + 1)
        }
      }
      var row = [Float](repeating: 0, count: vocabularySize)
      row[Int(hash % UInt64(vocabularySize))] = 1
      logits.append(row)
    }
    return logits
  }

  private func word(_ state: UInt64, _ index: Int, _ rank: Int) -> UInt64 {
    state &+ UInt64(index + rank * 16) &* 0x9E37_79B9_7F4A_7C15
  }

  /// A token's K row; its V row lies half a block further on.
  private func row(
    _ place: Int, _ span: SequenceSpan, _ pool: UnsafeMutableRawPointer
  ) -> UnsafeMutablePointer<UInt64> {
    let block = Int(span.blocks[place / layout.tokensPerBlock])
    let start = pool + block * layout.blockBytes + place % layout.tokensPerBlock * rowWords * 8
    return start.assumingMemoryBound(to: UInt64.self)
  }

  private func write(
    _ state: UInt64, at place: Int, _ span: SequenceSpan, _ pool: UnsafeMutableRawPointer, rank: Int
  ) {
    let keys = row(place, span, pool)
    let values = keys + layout.blockBytes / 16
    for index in 0..<rowWords {
      keys[index] = word(state, index, rank)
      values[index] = word(state, rowWords + index, rank)
    }
  }

  /// The state as it was written; another one if any byte was changed.
  private func read(
    at place: Int, _ span: SequenceSpan, _ pool: UnsafeMutableRawPointer, rank: Int
  ) -> UInt64 {
    let keys = row(place, span, pool)
    let values = keys + layout.blockBytes / 16
    let state = keys[0] &- word(0, 0, rank)
    var wrong: UInt64 = 0
    for index in 0..<rowWords {
      wrong |= keys[index] ^ word(state, index, rank)
      wrong |= values[index] ^ word(state, rowWords + index, rank)
    }
    return state ^ wrong
  }
}

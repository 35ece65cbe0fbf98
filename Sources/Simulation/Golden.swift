import ContentDigest
import KVLayout
import KVTransfer
import RemoteG2Core

/// What every prompt of a run gives when nothing is shared: its tokens, and the bytes of every block
/// on every rank.
final class Golden {
  struct Answer {
    let generated: [Int32]
  }

  private let chain: KeyChain
  private let rankCount: Int
  private var answers: [[Int32]: Answer] = [:]
  private var digests: [BlockKey: [Digest128]] = [:]
  static let generateMax = 8

  init(chain: KeyChain, rankCount: Int) {
    self.chain = chain
    self.rankCount = rankCount
  }

  /// What `prompt` must generate.
  func answer(_ prompt: [Int32]) -> Answer {
    if let known = answers[prompt] { return known }
    guard let bytes = try? ToyModel().layout.blockBytes else {
      preconditionFailure("the toy's layout is possible")
    }
    let blockCount = (prompt.count + Self.generateMax) / 4 + 1
    let memories = (0..<rankCount).map { _ in
      BlockMemory(blockBytes: bytes, blockCount: blockCount)
    }
    guard let model = try? ToyModel(others: memories.dropFirst().map { $0.region.base }) else {
      preconditionFailure("the toy's layout is possible")
    }
    let blocks = (0..<Int32(blockCount)).map { $0 }
    var tokens = prompt
    var computed = 0
    for _ in 0..<Self.generateMax {
      let span = SequenceSpan(
        tokens: Array(tokens[computed...]), position: computed, blocks: blocks, wantsLogits: true)
      computed = tokens.count
      let row = model.forward([span], pool: memories[0].region.base)[0]
      tokens.append(Int32(row.firstIndex(of: 1) ?? 0))
    }
    for (index, key) in chain.keys(of: Array(tokens[..<computed])).enumerated() {
      digests[key] = memories.map { ContentDigest.of($0.region.bytes(of: index)) }
    }
    let answer = Answer(generated: Array(tokens[prompt.count...]))
    answers[prompt] = answer
    return answer
  }

  /// The digest that the block of a key must have on a rank; nil for a key that nobody computes.
  func digest(_ key: BlockKey, rank: Int) -> Digest128? { digests[key]?[rank] }
}

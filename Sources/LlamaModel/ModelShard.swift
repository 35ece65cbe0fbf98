/// One rank's part of a model: some heads, some of the hidden units, all of the rest.
///
/// Queries, keys, values, gate and up are cut by rows, the two projections back by columns; what
/// those give is one part of a sum over the ranks. Embedding and norms are whole on every rank, and
/// logits are computed by rank 0 alone.
public struct ModelShard: Equatable, Sendable {
  public let rank: Int
  public let rankCount: Int
  let heads: Range<Int>
  let kvHeads: Range<Int>
  let hidden: Range<Int>

  /// - Throws: ``ModelError/indivisible(path:ranks:possible:)`` when the heads cannot be shared.
  init(
    _ configuration: LlamaConfiguration, rank: Int, rankCount: Int, path: String
  ) throws(ModelError) {
    precondition(rank >= 0 && rank < rankCount, "rank \(rank) of \(rankCount)")
    let possible = configuration.possibleRankCounts
    guard possible.contains(rankCount) else {
      throw .indivisible(path: path, ranks: rankCount, possible: possible)
    }
    self.rank = rank
    self.rankCount = rankCount
    func part(_ count: Int) -> Range<Int> {
      rank * (count / rankCount)..<(rank + 1) * (count / rankCount)
    }
    heads = part(configuration.headCount)
    kvHeads = part(configuration.kvHeadCount)
    hidden = part(configuration.hiddenSize)
  }
}

extension LlamaConfiguration {
  /// How many ranks can share the model evenly.
  public var possibleRankCounts: [Int] {
    (1...kvHeadCount).filter {
      kvHeadCount % $0 == 0 && headCount % $0 == 0 && hiddenSize % $0 == 0
    }
  }
}

import Collectives
import ContentDigest
import Foundation
import KVLayout
import Linear
import LlamaModel
import LlamaModelTesting
import OSThreads
import RemoteG2Core
import Synchronization
import Testing

@Suite(.serialized) struct `Shards of a model` {
  /// All ranks of one model, each with its own pool, on one thread each.
  final class Ranks: @unchecked Sendable {
    // @unchecked: each rank's part is used by that rank's thread, and by the test after it has ended.
    let models: [LlamaModel]
    let pools: [`The real model`.Pool]

    init(_ file: GGUFFile, _ count: Int, tokensPerBlock: Int = 4, blocks: Int = 32) throws {
      let group = LocalGroup<Int, Int>(rankCount: count)
      models = try (0..<count).map {
        try LlamaModel(
          file, tokensPerBlock: tokensPerBlock, team: ThreadTeam(threads: 1),
          reducer: group.reducer($0))
      }
      pools = models.map { `The real model`.Pool($0.layout, blocks: blocks) }
    }

    /// Every rank makes the same passes. Returns rank 0's logits of each.
    func forward(_ passes: [[SequenceSpan]]) -> [[[Float]]] {
      let threads = models.indices.dropFirst().map { rank in
        OSThread.start("shard-\(rank)") { [self] in
          for spans in passes {
            let logits = models[rank].forward(spans, pool: pools[rank].memory)
            precondition(logits.isEmpty, "logits are rank 0's")
          }
        }
      }
      let logits = passes.map { models[0].forward($0, pool: pools[0].memory) }
      for thread in threads { thread.join() }
      return logits
    }
  }

  static func tiny(_ ranks: Int) throws -> GGUFFile {
    var tiny = TinyLlama()
    if ranks == 3 { (tiny.heads, tiny.kvHeads) = (9, 3) }
    return try tiny.open()
  }

  static func tokens(_ count: Int, _ generator: inout SplitMix) -> [Int32] {
    (0..<count).map { _ in Int32.random(in: 0..<64, using: &generator) }
  }

  @Test(arguments: [1, 2, 3, 4], 0..<4)
  func `no bit depends on chunks, batch mates or where blocks lie, at any number of ranks`(
    ranks: Int, seed: Int
  ) throws {
    let file = try Self.tiny(ranks)
    var generator = SplitMix(seed: UInt64(seed * 10 + ranks))
    let count = 30 + seed * 7
    let tokens = Self.tokens(count, &generator)
    let straight = try Ranks(file, ranks)
    let ordered = (0..<Int32(16)).map { $0 }
    let golden = straight.forward([
      [SequenceSpan(tokens: tokens, position: 0, blocks: ordered, wantsLogits: true)]
    ])[0][0]

    let other = try Ranks(file, ranks)
    let shuffled = (0..<Int32(16)).shuffled(using: &generator)
    let mates = (16..<Int32(32)).map { $0 }
    var (position, matePosition) = (0, 0)
    var passes: [[SequenceSpan]] = []
    var own = 0
    while position < count {
      let chunk = min(count - position, Int.random(in: 1...11, using: &generator))
      let mate = Int.random(in: 0...3, using: &generator)
      var spans = [
        SequenceSpan(
          tokens: Array(tokens[position..<position + chunk]), position: position,
          blocks: shuffled, wantsLogits: true)
      ]
      own = 0
      if mate > 0 {
        own = Int.random(in: 0...1, using: &generator)
        spans.insert(
          SequenceSpan(
            tokens: Self.tokens(mate, &generator), position: matePosition, blocks: mates,
            wantsLogits: true), at: 1 - own)
      }
      passes.append(spans)
      position += chunk
      matePosition += mate
    }
    let last = other.forward(passes).last?[own]
    #expect(last?.map(\.bitPattern) == golden.map(\.bitPattern))
    for rank in 0..<ranks {
      #expect(
        other.pools[rank].digest(shuffled, tokens: count)
          == straight.pools[rank].digest(ordered, tokens: count), "rank \(rank)'s KV")
    }
  }

  @Test(arguments: [2, 3, 4]) func `the ranks together compute the whole model`(
    ranks: Int
  ) throws {
    let file = try Self.tiny(ranks)
    var generator = SplitMix(seed: 5)
    let span = SequenceSpan(
      tokens: Self.tokens(40, &generator), position: 0, blocks: (0..<Int32(10)).map { $0 },
      wantsLogits: true)
    let whole = try Ranks(file, 1)
    let golden = whole.forward([[span]])[0][0]
    let shards = try Ranks(file, ranks)
    let sharded = shards.forward([[span]])[0][0]
    let scale = golden.map(abs).max() ?? 0
    #expect(scale > 0.1, "logits that are all alike show nothing")
    for (one, other) in zip(golden, sharded) { #expect(abs(one - other) < scale * 1e-4) }
    // Each rank holds its own heads: rank r's first head is head r * kvHeads / ranks of the whole.
    let layout = whole.models[0].layout
    let perRank = shards.models[0].layout.kvHeadsPerRank
    for rank in 0..<ranks {
      let (mine, theirs) = (shards.pools[rank].memory, whole.pools[0].memory)
      let own = shards.models[rank].layout
      let value = (mine + own.offset(layer: 0, plane: 0, head: 0)).load(as: Float.self)
      let same = (theirs + layout.offset(layer: 0, plane: 0, head: rank * perRank)).load(
        as: Float.self)
      #expect(value.bitPattern == same.bitPattern, "rank \(rank) has another head's keys")
    }
  }

  @Test func `a split that the heads do not allow is refused with those they do`() throws {
    let file = try Self.tiny(4)
    let group = LocalGroup<Int, Int>(rankCount: 3)
    let refusal = #expect(throws: ModelError.self) {
      _ = try LlamaModel(file, team: ThreadTeam(threads: 1), reducer: group.reducer(0))
    }
    #expect(refusal?.description.contains("3 ranks: its heads allow 1, 2, 4") == true)
  }

  @Test(arguments: [2, 3, 4]) func `the self-test covers the shards' own shapes`(
    ranks: Int
  ) throws {
    let ranked = try Ranks(try Self.tiny(ranks), ranks)
    let model = ranked.models[ranks - 1]
    let size = model.configuration.headSize
    let heads = model.configuration.headCount / ranks
    let kvHeads = model.configuration.kvHeadCount / ranks
    #expect(model.shapes[0] == ((heads + 2 * kvHeads) * size, model.configuration.embeddingSize))
    #expect(model.shapes[1] == (model.configuration.embeddingSize, heads * size))
    try LinearSelfTest.run(shapes: model.shapes, team: ThreadTeam(threads: 2))
  }

  @Test(.enabled(if: hasModel, "no model: scripts/setup unpacks it into .deps"))
  func `three ranks of the real model give the reference's tokens`() throws {
    let greedy = try #require(`The real model`.fixture?.greedy.first)
    let ranked = try Ranks(try GGUFFile(path: modelPath), 3, tokensPerBlock: 16, blocks: 16)
    let blocks = (0..<Int32(16)).map { $0 }
    let steps = min(16, greedy.tokens.count)
    var (tokens, position) = (greedy.prompt, 0)
    var passes: [[SequenceSpan]] = []
    for step in 0..<steps {
      passes.append([
        SequenceSpan(
          tokens: Array(tokens[position...]), position: position, blocks: blocks,
          wantsLogits: true)
      ])
      position = tokens.count
      tokens.append(greedy.tokens[step])
    }
    let ends = ranked.models[0].tokenizer.endTokens
    for (step, logits) in ranked.forward(passes).enumerated() {
      let allowed = logits[0].indices.filter { !greedy.bansEnd || !ends.contains(Int32($0)) }
      let best = Int32(allowed.max { logits[0][$0] < logits[0][$1] } ?? 0)
      #expect(best == greedy.tokens[step] || greedy.nearTies.contains(step), "step \(step)")
    }
  }
}

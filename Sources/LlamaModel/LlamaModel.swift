public import Collectives
internal import Glibc
public import KVLayout
public import Linear

/// A Llama in fp32 over a paged KV pool.
///
/// Batch-invariant to the bit: the logits after a token, and the KV written for it, depend on the
/// tokens before it and on the weights, and on nothing else: not on how the prompt was chunked,
/// what shared its batch, where its blocks lie, or who computed the ones before.
///
/// With tensor parallelism it is one rank's shard; every rank makes the same passes. The bits depend on
/// the number of ranks as well then, and still on nothing else.
///
/// One thread uses it at a time.
public final class LlamaModel {
  struct Layer {
    let attentionNorm: [Float]
    let mlpNorm: [Float]
    /// Queries, keys and values of all heads, one product.
    let attentionInput: Matrix
    let attentionOutput: Matrix
    let gate: Matrix
    let up: Matrix
    let down: Matrix
  }

  public let configuration: LlamaConfiguration
  public let layout: BlockLayout
  public let tokenizer: Tokenizer
  let file: GGUFFile
  let team: ThreadTeam
  let layers: [Layer]
  let outputNorm: [Float]
  /// Nil where logits are another rank's work.
  let head: Matrix?
  public let shard: ModelShard
  let reducer: any TensorReducer
  let embedding: GGUFFile.Tensor
  /// `[position][headSize/2]`, grown as positions are met.
  var cosines: [Float] = []
  var sines: [Float] = []
  var scratch = ForwardScratch()

  /// Reads, dequantises and packs the weights of one rank's shard.
  ///
  /// - Parameter reducer: Sums over the ranks; says which rank this is.
  /// - Throws: ``ModelError`` for anything wrong with the file, or an impossible number of ranks.
  public init(
    _ file: GGUFFile, tokensPerBlock: Int = 16, team: ThreadTeam,
    reducer: any TensorReducer = SoloTensorReducer()
  ) throws(ModelError) {
    let configuration = try LlamaConfiguration(file)
    let shard = try ModelShard(
      configuration, rank: reducer.rank, rankCount: reducer.rankCount, path: file.path)
    self.configuration = configuration
    self.shard = shard
    self.reducer = reducer
    self.file = file
    self.team = team
    tokenizer = try Tokenizer(file)
    do {
      layout = try BlockLayout(
        layerCount: configuration.layerCount, kvHeadsPerRank: shard.kvHeads.count,
        headSize: configuration.headSize, tokensPerBlock: tokensPerBlock,
        rankCount: shard.rankCount)
    } catch {
      throw .malformed(path: file.path, "\(error)")
    }
    let (width, size) = (configuration.embeddingSize, configuration.headSize)
    let kvWidth = configuration.kvHeadCount * size
    let queries = shard.heads.lowerBound * size..<shard.heads.upperBound * size
    let keys = shard.kvHeads.lowerBound * size..<shard.kvHeads.upperBound * size
    let loader = WeightLoader(file: file, team: team)
    var layers: [Layer] = []
    for index in 0..<configuration.layerCount {
      let name = "blk.\(index)."
      layers.append(
        Layer(
          attentionNorm: try loader.vector(name + "attn_norm.weight", count: width),
          mlpNorm: try loader.vector(name + "ffn_norm.weight", count: width),
          attentionInput: try loader.matrix(
            [
              .init(name + "attn_q.weight", rows: width, taking: queries),
              .init(name + "attn_k.weight", rows: kvWidth, taking: keys),
              .init(name + "attn_v.weight", rows: kvWidth, taking: keys),
            ], columns: width),
          attentionOutput: try loader.matrix(
            [.init(name + "attn_output.weight", rows: width)], columns: width, taking: queries),
          gate: try loader.matrix(
            [
              .init(
                name + "ffn_gate.weight", rows: configuration.hiddenSize, taking: shard.hidden)
            ], columns: width),
          up: try loader.matrix(
            [.init(name + "ffn_up.weight", rows: configuration.hiddenSize, taking: shard.hidden)],
            columns: width),
          down: try loader.matrix(
            [.init(name + "ffn_down.weight", rows: width)], columns: configuration.hiddenSize,
            taking: shard.hidden)))
    }
    self.layers = layers
    outputNorm = try loader.vector("output_norm.weight", count: width)
    embedding = try file.tensor(
      "token_embd.weight", shape: [width, configuration.vocabularySize])
    // Tied unless the file says otherwise.
    let headName = file.tensors["output.weight"] == nil ? "token_embd.weight" : "output.weight"
    head =
      shard.rank == 0
      ? try loader.matrix([.init(headName, rows: configuration.vocabularySize)], columns: width)
      : nil
  }

  /// `(rows, columns)` of every product it makes, for the start-up self-test.
  public var shapes: [(rows: Int, columns: Int)] {
    let layer = layers[0]
    return [layer.attentionInput, layer.attentionOutput, layer.gate, layer.down].map {
      ($0.rows, $0.columns)
    }
  }

  /// Grows the rotary tables to cover `count` positions.
  func coverPositions(_ count: Int) {
    let half = configuration.headSize / 2
    for position in cosines.count / half..<max(count, cosines.count / half) {
      for pair in 0..<half {
        let power = -2.0 * Double(pair) / Double(configuration.headSize)
        let angle = Double(position) * pow(configuration.ropeBase, power)
        cosines.append(Float(cos(angle)))
        sines.append(Float(sin(angle)))
      }
    }
  }
}

/// Reads tensors of the supported types as floats.
struct WeightLoader {
  let file: GGUFFile
  let team: ThreadTeam

  func vector(_ name: String, count: Int) throws(ModelError) -> [Float] {
    let tensor = try file.tensor(name, shape: [count])
    var values = [Float](repeating: 0, count: count)
    Self.dequantise(tensor, at: file.pointer(to: tensor), count: count, into: &values)
    return values
  }

  /// Some rows of a tensor of `rows` rows.
  struct Part {
    let name: String
    let rows: Int
    let taken: Range<Int>

    init(_ name: String, rows: Int, taking taken: Range<Int>? = nil) {
      self.name = name
      self.rows = rows
      self.taken = taken ?? 0..<rows
    }
  }

  /// One matrix of rows of several tensors, one below the other.
  ///
  /// - Parameter taken: Of each row's `columns`, those that are kept.
  func matrix(
    _ parts: [Part], columns: Int, taking taken: Range<Int>? = nil
  ) throws(ModelError) -> Matrix {
    var tensors: [GGUFFile.Tensor] = []
    for part in parts {
      tensors.append(try file.tensor(part.name, shape: [columns, part.rows]))
    }
    let kept = taken ?? 0..<columns
    let total = parts.reduce(0) { $0 + $1.taken.count }
    let file = file
    return Matrix(rows: total, columns: kept.count, team: team) { range, output in
      let whole = UnsafeMutablePointer<Float>.allocate(capacity: columns)
      defer { whole.deallocate() }
      for (index, row) in range.enumerated() {
        var (part, local) = (0, row)
        while local >= parts[part].taken.count {
          local -= parts[part].taken.count
          part += 1
        }
        local += parts[part].taken.lowerBound
        let tensor = tensors[part]
        let stride = tensor.byteCount / parts[part].rows
        let line = output + index * kept.count
        let bytes = file.pointer(to: tensor) + local * stride
        if kept.count == columns {
          Self.dequantise(tensor, at: bytes, count: columns, into: line)
        } else {
          // Quantised in groups of columns that a cut may go through.
          Self.dequantise(tensor, at: bytes, count: columns, into: whole)
          line.update(from: whole + kept.lowerBound, count: kept.count)
        }
      }
    }
  }

  static func dequantise(
    _ tensor: GGUFFile.Tensor, at bytes: UnsafeRawPointer, count: Int,
    into output: UnsafeMutablePointer<Float>
  ) {
    switch GGMLType(rawValue: tensor.type) {
    case .f32?: memcpy(output, bytes, count * 4)
    case .f16?: Kernels.dequantiseF16(bytes, count: count, into: output)
    case .q4_1?: Kernels.dequantiseQ4_1(bytes, count: count, into: output)
    case .q8_0?: Kernels.dequantiseQ8_0(bytes, count: count, into: output)
    case nil: preconditionFailure("the file let an unknown type through")
    }
  }
}

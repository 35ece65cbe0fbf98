internal import Glibc
public import KVLayout
public import Linear

/// A Llama in fp32 over a paged KV pool.
///
/// Batch-invariant to the bit: the logits after a token, and the KV written for it, depend on the
/// tokens before it and on the weights, and on nothing else: not on how the prompt was chunked,
/// what shared its batch, where its blocks lie, or who computed the ones before.
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
  let team: WorkerTeam
  let layers: [Layer]
  let outputNorm: [Float]
  let head: Matrix
  let embedding: GGUFFile.Tensor
  /// `[position][headSize/2]`, grown as positions are met.
  var cosines: [Float] = []
  var sines: [Float] = []
  var scratch = ForwardScratch()

  /// Reads, dequantises and packs the weights.
  ///
  /// - Throws: ``ModelError`` for anything wrong with the file.
  public init(
    _ file: GGUFFile, tokensPerBlock: Int = 16, team: WorkerTeam
  ) throws(ModelError) {
    let configuration = try LlamaConfiguration(file)
    self.configuration = configuration
    self.file = file
    self.team = team
    tokenizer = try Tokenizer(file)
    do {
      layout = try BlockLayout(
        layerCount: configuration.layerCount, kvHeadsPerRank: configuration.kvHeadCount,
        headSize: configuration.headSize, tokensPerBlock: tokensPerBlock)
    } catch {
      throw .malformed(path: file.path, "\(error)")
    }
    let width = configuration.embeddingSize
    let kvWidth = configuration.kvHeadCount * configuration.headSize
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
              (name + "attn_q.weight", width), (name + "attn_k.weight", kvWidth),
              (name + "attn_v.weight", kvWidth),
            ], columns: width),
          attentionOutput: try loader.matrix(
            [(name + "attn_output.weight", width)], columns: width),
          gate: try loader.matrix(
            [(name + "ffn_gate.weight", configuration.hiddenSize)], columns: width),
          up: try loader.matrix(
            [(name + "ffn_up.weight", configuration.hiddenSize)], columns: width),
          down: try loader.matrix(
            [(name + "ffn_down.weight", width)], columns: configuration.hiddenSize)))
    }
    self.layers = layers
    outputNorm = try loader.vector("output_norm.weight", count: width)
    embedding = try file.tensor(
      "token_embd.weight", shape: [width, configuration.vocabularySize])
    // Tied unless the file says otherwise.
    let headName = file.tensors["output.weight"] == nil ? "token_embd.weight" : "output.weight"
    head = try loader.matrix([(headName, configuration.vocabularySize)], columns: width)
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
  let team: WorkerTeam

  func vector(_ name: String, count: Int) throws(ModelError) -> [Float] {
    let tensor = try file.tensor(name, shape: [count])
    var values = [Float](repeating: 0, count: count)
    Self.dequantise(tensor, at: file.pointer(to: tensor), count: count, into: &values)
    return values
  }

  /// One matrix of the rows of several tensors, one below the other.
  func matrix(
    _ parts: [(name: String, rows: Int)], columns: Int
  ) throws(ModelError) -> Matrix {
    var tensors: [GGUFFile.Tensor] = []
    for part in parts {
      tensors.append(try file.tensor(part.name, shape: [columns, part.rows]))
    }
    let total = parts.reduce(0) { $0 + $1.rows }
    let (file, rows) = (file, parts.map(\.rows))
    return Matrix(rows: total, columns: columns, team: team) { range, output in
      for (index, row) in range.enumerated() {
        var (part, local) = (0, row)
        while local >= rows[part] {
          local -= rows[part]
          part += 1
        }
        let tensor = tensors[part]
        let stride = tensor.byteCount / rows[part]
        Self.dequantise(
          tensor, at: file.pointer(to: tensor) + local * stride, count: columns,
          into: output + index * columns)
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

/// The dimensions of a Llama model, read from its file and checked against each other.
public struct LlamaConfiguration: Equatable, Sendable {
  public let layerCount: Int
  public let contextLength: Int
  public let embeddingSize: Int
  public let hiddenSize: Int
  public let headCount: Int
  public let kvHeadCount: Int
  public let headSize: Int
  public let vocabularySize: Int
  public let ropeBase: Double
  public let normEpsilon: Float

  public init(_ file: GGUFFile) throws(ModelError) {
    let architecture = try file.text("general.architecture")
    guard architecture == "llama" else {
      throw .unsupportedArchitecture(path: file.path, architecture)
    }
    layerCount = try file.integer("llama.block_count")
    contextLength = try file.integer("llama.context_length")
    embeddingSize = try file.integer("llama.embedding_length")
    hiddenSize = try file.integer("llama.feed_forward_length")
    headCount = try file.integer("llama.attention.head_count")
    kvHeadCount = try file.integer("llama.attention.head_count_kv")
    ropeBase = try file.real("llama.rope.freq_base")
    normEpsilon = Float(try file.real("llama.attention.layer_norm_rms_epsilon"))
    vocabularySize = try file.texts("tokenizer.ggml.tokens").count
    for (name, value, most) in [
      ("block_count", layerCount, 1 << 10), ("context_length", contextLength, 1 << 20),
      ("embedding_length", embeddingSize, 1 << 16), ("feed_forward_length", hiddenSize, 1 << 18),
      ("head_count", headCount, 1 << 10), ("head_count_kv", kvHeadCount, 1 << 10),
      ("the number of tokens", vocabularySize, 1 << 20),
    ] where value < 1 || value > most {
      throw .malformed(path: file.path, "\(name) is \(value)")
    }
    guard embeddingSize % headCount == 0, headCount % kvHeadCount == 0 else {
      throw .malformed(
        path: file.path,
        "\(embeddingSize) cannot be shared by \(headCount) heads over \(kvHeadCount) KV heads")
    }
    headSize = embeddingSize / headCount
    guard headSize % 8 == 0 else {
      throw .malformed(path: file.path, "a head of \(headSize) is not a multiple of 8")
    }
    guard ropeBase > 1, normEpsilon > 0 else {
      throw .malformed(path: file.path, "rope base \(ropeBase), norm epsilon \(normEpsilon)")
    }
    if file.metadata["llama.rope.scaling.type"] != nil || file.tensors["rope_freqs.weight"] != nil {
      throw .malformed(path: file.path, "it scales its rotary positions, which is not supported")
    }
  }
}

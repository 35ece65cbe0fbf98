internal import Glibc
internal import Linear
public import LlamaModel

/// A Llama of a few thousand random weights, for tests that need real sums and not real words.
public struct TinyLlama: Sendable {
  public var layers = 2
  public var heads = 8
  public var kvHeads = 4
  public var headSize = 8
  public var hidden = 96
  public var vocabulary = 64
  public var seed: UInt64 = 1

  public init() {}

  /// The file's bytes: the same for the same dimensions and seed.
  public func bytes() -> [UInt8] {
    var generator = SplitMix(seed: seed)
    let width = heads * headSize
    var file = GGUFWriter()
    file.add("general.architecture", .text("llama"))
    file.add("llama.block_count", .unsigned(UInt32(layers)))
    file.add("llama.context_length", .unsigned(4096))
    file.add("llama.embedding_length", .unsigned(UInt32(width)))
    file.add("llama.feed_forward_length", .unsigned(UInt32(hidden)))
    file.add("llama.attention.head_count", .unsigned(UInt32(heads)))
    file.add("llama.attention.head_count_kv", .unsigned(UInt32(kvHeads)))
    file.add("llama.rope.freq_base", .real(10_000))
    file.add("llama.attention.layer_norm_rms_epsilon", .real(1e-5))
    file.add("tokenizer.ggml.model", .text("gpt2"))
    file.add("tokenizer.ggml.pre", .text("smollm"))
    file.add("tokenizer.chat_template", .text("<|im_start|><|im_end|>"))
    file.add("tokenizer.ggml.tokens", .texts((0..<vocabulary).map { "t\($0)" }))
    file.add("tokenizer.ggml.merges", .texts([]))
    file.add("tokenizer.ggml.token_type", .signeds((0..<vocabulary).map { _ in 1 }))
    file.add("tokenizer.ggml.eos_token_id", .unsigned(0))
    func add(_ name: String, _ shape: [Int], scale: Float) {
      let count = shape.reduce(1, *)
      file.add(
        tensor: name, shape: shape, (0..<count).map { _ in generator.nextUnit() * scale })
    }
    func ones(_ name: String) {
      file.add(tensor: name, shape: [width], [Float](repeating: 1, count: width))
    }
    add("token_embd.weight", [width, vocabulary], scale: 1)
    ones("output_norm.weight")
    for layer in 0..<layers {
      let name = "blk.\(layer)."
      ones(name + "attn_norm.weight")
      ones(name + "ffn_norm.weight")
      add(name + "attn_q.weight", [width, width], scale: 0.3)
      add(name + "attn_k.weight", [width, kvHeads * headSize], scale: 0.3)
      add(name + "attn_v.weight", [width, kvHeads * headSize], scale: 0.3)
      add(name + "attn_output.weight", [width, width], scale: 0.3)
      add(name + "ffn_gate.weight", [width, hidden], scale: 0.3)
      add(name + "ffn_up.weight", [width, hidden], scale: 0.3)
      add(name + "ffn_down.weight", [hidden, width], scale: 0.3)
    }
    return file.bytes()
  }

  /// Written to a file, opened, and the file's name taken away again.
  public func open() throws -> GGUFFile {
    let bytes = bytes()
    var path = Array("/tmp/tiny-llama-XXXXXX".utf8CString)
    let descriptor = mkstemp(&path)
    precondition(descriptor >= 0, "no room for a tiny model")
    defer {
      close(descriptor)
      unlink(path)
    }
    var written = 0
    while written < bytes.count {
      let count = bytes.withUnsafeBytes {
        write(descriptor, $0.baseAddress! + written, bytes.count - written)
      }
      precondition(count > 0, "no room for a tiny model")
      written += count
    }
    return try GGUFFile(path: String(decoding: path.dropLast().map(UInt8.init), as: UTF8.self))
  }
}

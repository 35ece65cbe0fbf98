/// Byte-level BPE as GPT-2 defined it, with the `smollm` pre-tokenizer (every digit is a word).
public struct Tokenizer: Sendable {
  public let vocabularySize: Int
  /// Tokens that end a generation.
  public let endTokens: Set<Int32>
  private let pieces: [String]
  private let ids: [String: Int32]
  private let ranks: [Pair: Int32]
  /// Control tokens by text, longest first, as they are looked for in prompts.
  private let controls: [(text: String, id: Int32)]
  private let controlIDs: Set<Int32>
  /// The system message the model's own template inserts when a chat has none.
  private let defaultSystem: String?

  private struct Pair: Hashable, Sendable {
    let left: String
    let right: String
  }

  private static let controlType: GGUFFile.Value = .signed(3)
  /// Names llama.cpp treats as ends besides the file's own `eos`.
  private static let endNames = ["<|endoftext|>", "<|im_end|>", "<reponame>"]

  public init(_ file: GGUFFile) throws(ModelError) {
    let kind = try file.text("tokenizer.ggml.model")
    guard kind == "gpt2" else {
      throw .unsupportedTokenizer(path: file.path, "its tokenizer is '\(kind)'")
    }
    let splitter = try file.text("tokenizer.ggml.pre")
    guard splitter == "smollm" else {
      throw .unsupportedTokenizer(path: file.path, "its pre-tokenizer is '\(splitter)'")
    }
    let template = try file.text("tokenizer.chat_template")
    guard template.contains("<|im_start|>"), template.contains("<|im_end|>") else {
      throw .unsupportedTokenizer(path: file.path, "its chat template is not ChatML")
    }
    defaultSystem = Self.defaultSystem(in: template)
    pieces = try file.texts("tokenizer.ggml.tokens")
    vocabularySize = pieces.count
    var ids: [String: Int32] = [:]
    for (index, piece) in pieces.enumerated() { ids[piece] = Int32(index) }
    self.ids = ids
    var ranks: [Pair: Int32] = [:]
    for (rank, merge) in try file.texts("tokenizer.ggml.merges").enumerated() {
      guard let space = merge.dropFirst().firstIndex(of: " ") else {
        throw .malformed(path: file.path, "merge \(rank) has no space")
      }
      let pair = Pair(
        left: String(merge[..<space]), right: String(merge[merge.index(after: space)...]))
      ranks[pair] = Int32(rank)
    }
    self.ranks = ranks
    guard case .array(let types)? = file.metadata["tokenizer.ggml.token_type"],
      types.count == pieces.count
    else { throw .missing(path: file.path, key: "tokenizer.ggml.token_type for every token") }
    var controls: [(text: String, id: Int32)] = []
    for (index, type) in types.enumerated() where type == Self.controlType {
      controls.append((pieces[index], Int32(index)))
    }
    self.controls = controls.sorted {
      ($1.text.utf8.count, $0.id) < ($0.text.utf8.count, $1.id)
    }
    controlIDs = Set(controls.map(\.id))
    var ends = Set(Self.endNames.compactMap { ids[$0] })
    ends.insert(Int32(try file.integer("tokenizer.ggml.eos_token_id")))
    endTokens = ends
  }

  // MARK: Encoding

  /// - Parameter parsesControls: Whether control tokens spelled in `text` become themselves. Off for
  ///   text that a user wrote.
  public func encode(_ text: String, parsesControls: Bool) -> [Int32] {
    guard parsesControls else { return encodePlain(text) }
    var fragments: [(text: Substring, id: Int32?)] = [(text[...], nil)]
    for control in controls {
      fragments = fragments.flatMap { fragment -> [(text: Substring, id: Int32?)] in
        guard fragment.id == nil else { return [fragment] }
        var parts: [(text: Substring, id: Int32?)] = []
        var rest = fragment.text
        while let range = Self.firstRange(of: control.text, in: rest) {
          parts.append((rest[..<range.lowerBound], nil))
          parts.append((rest[range], control.id))
          rest = rest[range.upperBound...]
        }
        parts.append((rest, nil))
        return parts
      }
    }
    return fragments.flatMap { fragment in
      fragment.id.map { [$0] } ?? encodePlain(String(fragment.text))
    }
  }

  /// One user message as the model's template writes it, ready for the assistant's answer.
  public func encodeChat(user message: String) -> [Int32] {
    var tokens: [Int32] = []
    func turn(_ role: String, _ content: String) {
      tokens += encode("<|im_start|>\(role)\n", parsesControls: true)
      tokens += encode(content, parsesControls: false)
      tokens += encode("<|im_end|>\n", parsesControls: true)
    }
    if let defaultSystem { turn("system", defaultSystem) }
    turn("user", message)
    return tokens + encode("<|im_start|>assistant\n", parsesControls: true)
  }

  private func encodePlain(_ text: String) -> [Int32] {
    PreTokenizer.words(of: Array(text.unicodeScalars)).flatMap(encodeWord)
  }

  /// Merges the lowest-ranked adjacent pair, the leftmost of equals, until none is left.
  private func encodeWord(_ word: ArraySlice<Unicode.Scalar>) -> [Int32] {
    var parts: [String] = []
    for scalar in word {
      for byte in String(scalar).utf8 { parts.append(ByteAlphabet.text(of: byte)) }
    }
    while parts.count > 1 {
      var best: (rank: Int32, index: Int)?
      for index in 0..<parts.count - 1 {
        guard let rank = ranks[Pair(left: parts[index], right: parts[index + 1])] else { continue }
        if best.map({ rank < $0.rank }) ?? true { best = (rank, index) }
      }
      guard let best else { break }
      parts[best.index] += parts.remove(at: best.index + 1)
    }
    // A few bytes have no token of their own; like the reference, they are left out.
    return parts.compactMap { ids[$0] }
  }

  // MARK: Decoding

  /// The bytes of some tokens. Control tokens have none; a piece may end inside a character.
  public func bytes(of tokens: [Int32]) -> [UInt8] {
    tokens.flatMap { token -> [UInt8] in
      guard pieces.indices.contains(Int(token)), !controlIDs.contains(token) else { return [] }
      return pieces[Int(token)].unicodeScalars.compactMap(ByteAlphabet.byte)
    }
  }

  public func decode(_ tokens: [Int32]) -> String {
    String(decoding: bytes(of: tokens), as: UTF8.self)
  }

  // MARK: Private

  private static func firstRange(
    of needle: String, in text: Substring
  ) -> Range<Substring.Index>? {
    let wanted = Array(needle.utf8)
    let bytes = text.utf8
    var start = bytes.startIndex
    while start != bytes.endIndex {
      if bytes[start] == wanted[0], bytes[start...].starts(with: wanted) {
        return start..<bytes.index(start, offsetBy: wanted.count)
      }
      start = bytes.index(after: start)
    }
    return nil
  }

  private static func defaultSystem(in template: String) -> String? {
    let opening = "<|im_start|>system\n"
    guard let start = firstRange(of: opening, in: template[...]),
      let end = firstRange(of: "<|im_end|>", in: template[start.upperBound...])
    else { return nil }
    return String(template[start.upperBound..<end.lowerBound])
  }
}

/// GPT-2's one-character spelling of every byte.
enum ByteAlphabet {
  private static let scalars: [Unicode.Scalar] = {
    var scalars: [Unicode.Scalar] = []
    var extra: UInt32 = 0
    for byte in UInt8.min...UInt8.max {
      switch byte {
      case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: scalars.append(Unicode.Scalar(byte))
      default:
        guard let scalar = Unicode.Scalar(0x100 + extra) else {
          preconditionFailure("0x100 and the 68 after it are scalars")
        }
        scalars.append(scalar)
        extra += 1
      }
    }
    return scalars
  }()
  private static let texts = scalars.map { String($0) }
  private static let bytes = Dictionary(
    uniqueKeysWithValues: scalars.enumerated().map { ($1, UInt8($0)) })

  static func text(of byte: UInt8) -> String { texts[Int(byte)] }
  static func byte(_ scalar: Unicode.Scalar) -> UInt8? { bytes[scalar] }
}

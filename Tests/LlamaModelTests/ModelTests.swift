import ContentDigest
import Foundation
import KVLayout
import Linear
import LlamaModel
import RemoteG2Core
import Testing

let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent()
let modelPath = repository.appendingPathComponent(
  ".deps/model/SmolLM2-135M-Instruct.Q4_1.gguf"
).path
let hasModel = FileManager.default.fileExists(atPath: modelPath)

/// The real model, loaded once.
enum RealModel {
  nonisolated(unsafe) static let shared: LlamaModel? = {
    // Tests that use it are serialized; nothing else touches it.
    guard let file = try? GGUFFile(path: modelPath) else { return nil }
    return try? LlamaModel(file, team: ThreadTeam(threads: 2))
  }()
}

@Suite(.serialized, .enabled(if: hasModel, "no model: scripts/setup unpacks it into .deps"))
struct `The real model` {
  struct Fixture: Decodable {
    struct Text: Decodable {
      let text: String
      let ids: [Int32]
    }
    struct Greedy: Decodable {
      let prompt: [Int32]
      let tokens: [Int32]
      /// Steps where the reference's two best were closer than 0.05.
      let nearTies: [Int]
      /// The reference went on past its end by never choosing an end token.
      let bansEnd: Bool
    }
    let texts: [Text]
    let chat: [Text]
    let greedy: [Greedy]
  }

  static let fixture: Fixture? = {
    let url = repository.appendingPathComponent(
      "Tests/LlamaModelTests/Fixtures/reference.json")
    return (try? Data(contentsOf: url)).flatMap {
      try? JSONDecoder().decode(Fixture.self, from: $0)
    }
  }()

  /// A pool of its own.
  final class Pool {
    let memory: UnsafeMutableRawPointer
    let layout: BlockLayout
    init(_ layout: BlockLayout, blocks: Int) {
      self.layout = layout
      memory = .allocate(byteCount: layout.blockBytes * blocks, alignment: 4096)
      memset(memory, 0, layout.blockBytes * blocks)
    }
    deinit { memory.deallocate() }

    func digest(_ blocks: [Int32], tokens: Int) -> Digest128 {
      var digest = StreamingDigest()
      for (index, block) in blocks.enumerated() {
        let count = min(layout.tokensPerBlock, tokens - index * layout.tokensPerBlock)
        guard count > 0 else { break }
        for extent in layout.extents(ofFirst: count) {
          digest.add(
            UnsafeRawBufferPointer(
              start: memory + Int(block) * layout.blockBytes + extent.offset, count: extent.count))
        }
      }
      return digest.value()
    }
  }

  @Test func `tokens equal the reference's for every text`() throws {
    let model = try #require(RealModel.shared)
    let fixture = try #require(Self.fixture)
    #expect(fixture.texts.count >= 7)
    for text in fixture.texts {
      #expect(
        model.tokenizer.encode(text.text, parsesControls: false) == text.ids, "\(text.text)")
    }
    for chat in fixture.chat {
      #expect(model.tokenizer.encodeChat(user: chat.text) == chat.ids, "\(chat.text)")
    }
    #expect(model.tokenizer.encode("x<|im_start|>y", parsesControls: true) == [104, 1, 105])
  }

  @Test func `decoding gives the bytes back`() throws {
    let model = try #require(RealModel.shared)
    for text in ["Hello, world!\n\n  1984 caf\u{e9} \u{4f60}\u{597d}", "a\tb", ""] {
      #expect(model.tokenizer.decode(model.tokenizer.encode(text, parsesControls: false)) == text)
    }
  }

  @Test func `greedy tokens equal the reference's`() throws {
    let model = try #require(RealModel.shared)
    let fixture = try #require(Self.fixture)
    #expect(fixture.greedy.contains { $0.tokens.count == 64 })
    for greedy in fixture.greedy {
      let pool = Pool(model.layout, blocks: 16)
      let blocks = (0..<Int32(16)).map { $0 }
      var tokens = greedy.prompt
      var position = 0
      for step in greedy.tokens.indices {
        let logits = model.forward(
          [
            SequenceSpan(
              tokens: Array(tokens[position...]), position: position, blocks: blocks,
              wantsLogits: true)
          ], pool: pool.memory)[0]
        position = tokens.count
        let allowed = logits.indices.filter {
          !greedy.bansEnd || !model.tokenizer.endTokens.contains(Int32($0))
        }
        let best = Int32(allowed.max { logits[$0] < logits[$1] } ?? 0)
        if best != greedy.tokens[step] {
          #expect(
            greedy.nearTies.contains(step), "step \(step): \(best), not \(greedy.tokens[step])")
        }
        // Follow the reference, so that one near-tie does not hide the rest.
        tokens.append(greedy.tokens[step])
      }
    }
  }

  @Test(arguments: 0..<6) func `no bit depends on chunks, batch mates or where blocks lie`(
    seed: Int
  ) throws {
    let model = try #require(RealModel.shared)
    var generator = SplitMix(seed: UInt64(seed))
    let count = 40 + seed * 5
    let tokens = (0..<count).map { _ in Int32.random(in: 17..<49152, using: &generator) }
    let straight = Pool(model.layout, blocks: 16)
    let ordered = (0..<Int32(8)).map { $0 }
    let golden = model.forward(
      [SequenceSpan(tokens: tokens, position: 0, blocks: ordered, wantsLogits: true)],
      pool: straight.memory)[0]

    let other = Pool(model.layout, blocks: 32)
    let shuffled = (0..<Int32(16)).shuffled(using: &generator)
    let mateBlocks = (16..<Int32(32)).map { $0 }
    var position = 0
    var matePosition = 0
    var last: [Float] = []
    while position < count {
      let chunk = min(count - position, Int.random(in: 1...23, using: &generator))
      let mate = Int.random(in: 0...9, using: &generator)
      var spans: [SequenceSpan] = []
      if mate > 0 {
        spans.append(
          SequenceSpan(
            tokens: (0..<mate).map { _ in Int32.random(in: 17..<49152, using: &generator) },
            position: matePosition, blocks: mateBlocks, wantsLogits: true))
      }
      matePosition += mate
      spans.insert(
        SequenceSpan(
          tokens: Array(tokens[position..<position + chunk]), position: position,
          blocks: shuffled, wantsLogits: true),
        at: Int.random(in: 0...spans.count, using: &generator))
      let own = spans.firstIndex { $0.blocks == shuffled } ?? 0
      last = model.forward(spans, pool: other.memory)[own]
      position += chunk
    }
    #expect(last.map(\.bitPattern) == golden.map(\.bitPattern))
    #expect(
      other.digest(shuffled, tokens: count) == straight.digest(ordered, tokens: count))
  }
}

@Suite struct `A model file that cannot be used` {
  private static func refusal(_ bytes: [UInt8]) -> ModelError? {
    let path = FileManager.default.temporaryDirectory.path + "/rg2-\(UUID().uuidString).gguf"
    _ = FileManager.default.createFile(atPath: path, contents: Data(bytes))
    defer { try? FileManager.default.removeItem(atPath: path) }
    do throws(ModelError) {
      let file = try GGUFFile(path: path)
      _ = try LlamaModel(file, team: ThreadTeam(threads: 1))
      return nil
    } catch { return error }
  }

  private static func header(_ version: UInt32, tensors: UInt64, entries: UInt64) -> [UInt8] {
    var bytes = Array("GGUF".utf8)
    withUnsafeBytes(of: version.littleEndian) { bytes += $0 }
    withUnsafeBytes(of: tensors.littleEndian) { bytes += $0 }
    withUnsafeBytes(of: entries.littleEndian) { bytes += $0 }
    return bytes
  }

  @Test func `each kind is named for what it is`() throws {
    let missing = #expect(throws: ModelError.self) { try GGUFFile(path: "/nonexistent.gguf") }
    #expect("\(try #require(missing))".contains("No such file"))
    let folder = #expect(throws: ModelError.self) { try GGUFFile(path: "/tmp") }
    #expect("\(try #require(folder))".contains("not a regular file"))
    #expect(
      "\(try #require(Self.refusal(Array("hello world, this is no model".utf8))))"
        .contains("not a GGUF file"))
    #expect(
      "\(try #require(Self.refusal(Self.header(9, tensors: 0, entries: 0))))"
        .contains("version 9"))
    #expect(
      "\(try #require(Self.refusal(Self.header(3, tensors: 1 << 60, entries: 0))))"
        .contains("claims"))
    #expect(
      "\(try #require(Self.refusal(Self.header(3, tensors: 0, entries: 0))))"
        .contains("general.architecture"))
    #expect(
      "\(try #require(Self.refusal(Self.header(3, tensors: 0, entries: 5))))"
        .contains("truncated"))
  }

  @Test(.enabled(if: hasModel, "no model")) func `a truncated real file says so, wherever it ends`()
    throws
  {
    let whole = try Data(contentsOf: URL(fileURLWithPath: modelPath), options: .mappedIfSafe)
    for length in [10, 23, 24, 100, 5_000, 1_000_000, 1_785_000, 1_785_700, 40_000_000] {
      let error = try #require(Self.refusal(Array(whole.prefix(length))))
      let words = "\(error)"
      #expect(words.contains("truncated") || words.contains("not a GGUF"), "\(length): \(words)")
    }
  }

  @Test(.enabled(if: hasModel, "no model"), arguments: 0..<60)
  func `a damaged header never crashes and never takes much memory`(seed: Int) throws {
    let whole = try Data(contentsOf: URL(fileURLWithPath: modelPath), options: .mappedIfSafe)
    var generator = SplitMix(seed: UInt64(seed))
    var bytes = Array(whole.prefix(3000))
    for _ in 0..<Int.random(in: 1...8, using: &generator) {
      bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(
        in: 0...255, using: &generator)
    }
    #expect(Self.refusal(bytes) != nil)
  }
}

import Foundation
import LlamaModel

/// The text that ships with the program, and the model's way to read it.
struct SampleText {
  let text: String
  let tokenizer: Tokenizer
  /// Of one block of 16 tokens, all layers.
  let blockBytes: Int

  /// Fails the program when the model cannot be read.
  init(model path: String) {
    do {
      let file = try GGUFFile(path: path)
      tokenizer = try Tokenizer(file)
      let configuration = try LlamaConfiguration(file)
      guard let url = Bundle.module.url(forResource: "text", withExtension: "txt"),
        let text = try? String(contentsOf: url, encoding: .utf8)
      else { fail("the text that ships with this program is missing: build it again") }
      self.text = text
      blockBytes =
        configuration.layerCount * 2 * configuration.kvHeadCount * 16
        * configuration.headSize * 4
    } catch { fail("\(error)") }
  }
}

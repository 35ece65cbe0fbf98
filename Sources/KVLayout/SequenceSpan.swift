/// Some consecutive tokens of one sequence, for one forward pass.
public struct SequenceSpan: Equatable, Codable, Sendable {
  public let tokens: [Int32]
  /// Position of the first of them in its sequence. Everything before it is already in the pool.
  public let position: Int
  /// The sequence's block table: block `i` holds tokens `i * tokensPerBlock` onwards. Covers the
  /// span's last token.
  public let blocks: [Int32]
  /// Whether the logits after the last token are wanted.
  public let wantsLogits: Bool

  public init(tokens: [Int32], position: Int, blocks: [Int32], wantsLogits: Bool) {
    self.tokens = tokens
    self.position = position
    self.blocks = blocks
    self.wantsLogits = wantsLogits
  }
}

public import KVLayout

/// The model, as the engine sees it.
///
/// Must be batch-invariant to the bit: a token's logits and KV depend on the tokens before it and on
/// the weights, and on nothing else. Everything this package promises about tokens rests on it.
public protocol ForwardPass: AnyObject {
  var layout: BlockLayout { get }
  var contextLength: Int { get }
  var vocabularySize: Int { get }
  /// Tokens that end a generation.
  var endTokens: Set<Int32> { get }
  /// Computes and stores the KV of every token, and returns the logits of the spans that want them.
  func forward(_ spans: [SequenceSpan], pool: UnsafeMutableRawPointer) -> [[Float]]
}

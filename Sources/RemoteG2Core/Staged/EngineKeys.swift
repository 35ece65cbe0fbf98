/// Makes block keys of an engine's own block hashes.
///
/// The engine's hash is chained and, where prompts come from strangers, cryptographic: its first 128 bits name
/// a block as well as a key of ours does. The scope moves them elsewhere, so that engines that may not share
/// never name a block alike.
public struct EngineKeys: Sendable {
  private let scope: Digest128

  /// - Parameter scope: A digest of all that must be equal, besides the tokens, for two blocks to be the same.
  public init(scope: Digest128) { self.scope = scope }

  /// Of a hash: the shortest that names a block is 16 bytes long.
  public static let hashBytesMin = 16

  public func key(_ hash: UnsafeRawBufferPointer) -> BlockKey {
    precondition(hash.count >= Self.hashBytesMin, "a block hash of \(hash.count) bytes")
    func word(_ offset: Int) -> UInt64 {
      UInt64(bigEndian: hash.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
    return BlockKey(high: word(0) ^ scope.high, low: word(8) ^ scope.low)
  }
}

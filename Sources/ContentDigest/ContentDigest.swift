internal import CXXHash
public import RemoteG2Core

/// XXH3-128 over bytes: the content digest of a block, and of framed metadata.
public enum ContentDigest {
  /// - Complexity: O(bytes); tens of gigabytes a second on one core, by the widest vectors that it has.
  public static func of(_ bytes: UnsafeRawBufferPointer) -> Digest128 {
    let hash = cxxhash_128(bytes.baseAddress, bytes.count)
    return Digest128(high: hash.high64, low: hash.low64)
  }

  /// Of one rank's bytes of a block, seeded with its key and the rank: the same bytes have another digest
  /// under another name.
  public static func of(_ bytes: UnsafeRawBufferPointer, key: BlockKey, rank: Int) -> Digest128 {
    let hash = cxxhash_128_seeded(bytes.baseAddress, bytes.count, seed(key, rank))
    return Digest128(high: hash.high64, low: hash.low64)
  }

  static func seed(_ key: BlockKey, _ rank: Int) -> UInt64 {
    let name = (key.high.littleEndian, key.low.littleEndian, UInt64(rank).littleEndian)
    return withUnsafeBytes(of: name) { XXH3_64bits($0.baseAddress, $0.count) }
  }

  public static func of(_ bytes: [UInt8]) -> Digest128 {
    bytes.withUnsafeBytes { of($0) }
  }
}

/// XXH3-128 over a stream of pieces; equals ``ContentDigest`` over their concatenation.
public struct StreamingDigest: ~Copyable {
  private let state: OpaquePointer

  public init() {
    guard let state = XXH3_createState() else { preconditionFailure("out of memory") }
    self.state = state
    XXH3_128bits_reset(state)
  }

  deinit { XXH3_freeState(state) }

  /// From now on the pieces are those of one rank's bytes of a block.
  public mutating func begin(key: BlockKey, rank: Int) {
    XXH3_128bits_reset_withSeed(state, ContentDigest.seed(key, rank))
  }

  public mutating func add(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return }
    cxxhash_128_update(state, bytes.baseAddress, bytes.count)
  }

  public borrowing func value() -> Digest128 {
    let hash = XXH3_128bits_digest(state)
    return Digest128(high: hash.high64, low: hash.low64)
  }
}

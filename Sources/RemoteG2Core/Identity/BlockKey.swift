/// The chained 128-bit identity of a sealed block: its tokens, everything before them, and the scope.
public struct BlockKey: Hashable, Comparable, Codable, Sendable, CustomStringConvertible {
  public let high: UInt64
  public let low: UInt64

  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  public var description: String { hexText(high) + hexText(low) }
  public static func < (a: Self, b: Self) -> Bool { (a.high, a.low) < (b.high, b.low) }
}

/// A hash, given to the core by its user. A block key is the first 16 bytes of its digest.
public struct HashFunction: Sendable {
  /// Compared in the handshake as the hash scheme; the shipped one is `sha256-chain/1`.
  public let name: String
  public let digest: @Sendable ([UInt8]) -> [UInt8]

  /// - Parameter digest: Must return at least 16 bytes; fewer trap at the first key. Where prompts come from
  ///   strangers it must be cryptographic: two prompts of one key would share their blocks.
  public init(name: String, digest: @escaping @Sendable ([UInt8]) -> [UInt8]) {
    self.name = name
    self.digest = digest
  }
}

/// What must be equal, besides the tokens, for two blocks to hold the same KV.
public struct KeyScope: Equatable, Hashable, Sendable {
  public var modelDigest: String
  public var weightEpoch: UInt64
  public var adapter: String
  public var tenantSalt: String
  public var layoutDigest: String
  public var numerics: String

  public init(
    modelDigest: String, weightEpoch: UInt64 = 0, adapter: String = "", tenantSalt: String = "",
    layoutDigest: String, numerics: String
  ) {
    self.modelDigest = modelDigest
    self.weightEpoch = weightEpoch
    self.adapter = adapter
    self.tenantSalt = tenantSalt
    self.layoutDigest = layoutDigest
    self.numerics = numerics
  }
}

/// Names the whole blocks of a token sequence.
public struct KeyChain: Sendable {
  private let hash: HashFunction
  private let tokensPerBlock: Int
  /// The scope, length-prefixed field by field so that no two scopes share an encoding.
  private let scopeBytes: [UInt8]

  public init(scope: KeyScope, tokensPerBlock: Int, hash: HashFunction) {
    precondition(tokensPerBlock > 0, "a block holds at least one token")
    var bytes: [UInt8] = []
    for field in [
      scope.modelDigest, String(scope.weightEpoch), scope.adapter, scope.tenantSalt,
      scope.layoutDigest, scope.numerics,
    ] {
      Self.append(count: field.utf8.count, to: &bytes)
      bytes.append(contentsOf: field.utf8)
    }
    self.hash = hash
    self.tokensPerBlock = tokensPerBlock
    self.scopeBytes = bytes
  }

  /// The keys of every whole block of `tokens`, in order. A partial last block has no key.
  ///
  /// - Complexity: O(`tokens.count`), one hash per block.
  public func keys(of tokens: [Int32]) -> [BlockKey] {
    var keys: [BlockKey] = []
    extend(&keys, covering: tokens)
    return keys
  }

  /// Appends to `keys` the keys of the blocks of `tokens` that it does not hold yet.
  public func extend(_ keys: inout [BlockKey], covering tokens: [Int32]) {
    while (keys.count + 1) * tokensPerBlock <= tokens.count {
      let first = keys.count * tokensPerBlock
      keys.append(key(of: tokens[first..<first + tokensPerBlock], after: keys.last))
    }
  }

  private func key(of tokens: ArraySlice<Int32>, after parent: BlockKey?) -> BlockKey {
    var bytes = Array("remote-g2/block-key/1".utf8)
    bytes.reserveCapacity(bytes.count + 17 + scopeBytes.count + 8 + tokens.count * 4)
    bytes.append(parent == nil ? 0 : 1)
    Self.append(parent?.high ?? 0, to: &bytes)
    Self.append(parent?.low ?? 0, to: &bytes)
    bytes.append(contentsOf: scopeBytes)
    Self.append(count: tokens.count, to: &bytes)
    for token in tokens {
      for shift in stride(from: 0, to: 32, by: 8) {
        bytes.append(UInt8(truncatingIfNeeded: token >> Int32(shift)))
      }
    }
    let digest = hash.digest(bytes)
    precondition(digest.count >= 16, "\(hash.name) gave \(digest.count) bytes")
    func word(_ first: Int) -> UInt64 {
      digest[first..<first + 8].reduce(0) { $0 << 8 | UInt64($1) }
    }
    return BlockKey(high: word(0), low: word(8))
  }

  private static func append(_ word: UInt64, to bytes: inout [UInt8]) {
    for shift in stride(from: UInt64(0), to: 64, by: 8) {
      bytes.append(UInt8(truncatingIfNeeded: word >> shift))
    }
  }

  private static func append(count: Int, to bytes: inout [UInt8]) {
    append(UInt64(count), to: &bytes)
  }
}

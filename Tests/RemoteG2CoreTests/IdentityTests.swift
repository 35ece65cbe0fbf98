import RemoteG2Core
import Testing

@Suite struct `Block identity` {
  /// Not cryptographic: enough to see which bytes went in.
  static let hash = HashFunction(name: "fnv") { bytes in
    var words = [UInt64](repeating: 0xCBF2_9CE4_8422_2325, count: 4)
    for (index, byte) in bytes.enumerated() {
      for word in words.indices {
        words[word] = (words[word] ^ UInt64(byte) ^ UInt64(index * word)) &* 0x0000_0100_0000_01B3
      }
    }
    return words.flatMap { word in
      stride(from: UInt64(56), through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
    }
  }

  static func keys(_ scope: KeyScope, _ tokens: [Int32]) -> [BlockKey] {
    KeyChain(scope: scope, tokensPerBlock: 4, hash: hash).keys(of: tokens)
  }

  static let scope = KeyScope(
    modelDigest: "model", weightEpoch: 1, adapter: "adapter", tenantSalt: "salt",
    layoutDigest: "layout", numerics: "numerics")

  @Test func `a key differs when exactly one dimension of its scope does`() {
    let tokens = (0..<16).map { Int32($0) }
    var scopes = [Self.scope]
    for change in [
      { $0.modelDigest = "other" }, { $0.weightEpoch = 2 }, { $0.adapter = "other" },
      { $0.tenantSalt = "other" }, { $0.layoutDigest = "other" }, { $0.numerics = "other" },
    ] as [(inout KeyScope) -> Void] {
      var scope = Self.scope
      change(&scope)
      scopes.append(scope)
    }
    let chains = scopes.map { Self.keys($0, tokens) }
    for first in chains.indices {
      for second in chains.indices where first < second {
        #expect(Set(chains[first]).isDisjoint(with: chains[second]))
      }
    }
  }

  @Test func `moving bytes from one field to the next gives another key`() {
    let tokens = (0..<4).map { Int32($0) }
    var shifted = Self.scope
    shifted.modelDigest = "modela"
    shifted.adapter = "dapter"
    var joined = Self.scope
    joined.adapter = "adaptersalt"
    joined.tenantSalt = ""
    let keys = [Self.scope, shifted, joined].map { Self.keys($0, tokens)[0] }
    #expect(Set(keys).count == 3)
    // Fields that look like what stands between fields: only the lengths tell them apart.
    let nothing = String(repeating: "\0", count: 8)
    var (front, back) = (Self.scope, Self.scope)
    (front.adapter, front.tenantSalt) = ("x" + nothing, "")
    (back.adapter, back.tenantSalt) = ("x", nothing)
    #expect(Self.keys(front, tokens) != Self.keys(back, tokens))
  }

  @Test func `a key names its tokens and everything before them`() {
    let tokens = (0..<16).map { Int32($0) }
    let keys = Self.keys(Self.scope, tokens)
    #expect(keys.count == 4 && Set(keys).count == 4)
    for place in tokens.indices {
      var other = tokens
      other[place] += 1
      let changed = Self.keys(Self.scope, other)
      for block in keys.indices {
        #expect((changed[block] == keys[block]) == (block < place / 4))
      }
    }
    #expect(Self.keys(Self.scope, Array(tokens.prefix(15))).count == 3, "a partial block has a key")
  }

  @Test func `a handshake names the first field that differs`() {
    let ours = Fingerprint(
      modelDigest: "m", weightEpoch: 1, layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")
    #expect(ours.mismatch(with: ours) == nil)
    let changes: [(String, (inout Fingerprint) -> Void)] = [
      ("protocol version", { $0.protocolVersion = 9 }), ("layout", { $0.layout = "x" }),
      ("ranks", { $0.rankCount = 2 }), ("hash scheme", { $0.hashScheme = "x" }),
      ("model", { $0.modelDigest = "x" }), ("weight epoch", { $0.weightEpoch = 2 }),
      ("numerics", { $0.numerics = "x" }),
    ]
    for (field, change) in changes {
      var theirs = ours
      change(&theirs)
      #expect(ours.mismatch(with: theirs)?.field == field)
    }
  }
}

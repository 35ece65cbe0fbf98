import RemoteG2Core
import Testing

/// Bytes that two versions of this package must agree on. They were made by another program, after the
/// encodings' description; whoever changes one of them changes what old and new nodes say to each other, and
/// raises a version.
@Suite struct `Known answers` {
  static let key = BlockKey(high: 0x0102_0304_0506_0708, low: 9)
  static let parent = BlockKey(high: 10, low: 11)
  static let digest = Digest128(high: 12, low: 13)
  static let incarnation = Incarnation(high: 14, low: 15)
  static let fingerprint = Fingerprint(
    modelDigest: "m", weightEpoch: 3, layout: "l", hashScheme: "h", rankCount: 2, numerics: "n")
  static var stats: StoreStats {
    var stats = StoreStats()
    (stats.slots, stats.free, stats.writing, stats.sealed) = (31, 32, 33, 34)
    (stats.pinned, stats.leases, stats.staged) = (35, 36, 37)
    (stats.granted, stats.released, stats.expired, stats.evicted) = (38, 39, 40, 41)
    return stats
  }

  static func hex(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef")
    return String(bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
  }

  static func bytes(_ hex: String) -> [UInt8] {
    let digits = hex.compactMap(\.hexDigitValue)
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
  }

  static let frames: [(message: LocalMessage, hex: String)] = [
    (
      .hello(
        LocalHello(engine: incarnation, role: .leader, fingerprint: fingerprint, stagingSlots: 0)),
      "01030000000e000000000000000f00000000000000ffffffff02000000010000006d0300000000000000010000006c010000006802000000010000006e000000000000000000000000000000000000000000000000"
    ),
    (
      .hello(
        LocalHello(engine: incarnation, role: .rank(1), fingerprint: fingerprint, stagingSlots: 32)),
      "01030000000e000000000000000f000000000000000100000002000000010000006d0300000000000000010000006c010000006802000000010000006e200000000000000000000000000000000000000000000000"
    ),
    (
      .lookup(lease: 16, keys: [key, parent], isLast: true),
      "0210000000000000000102000000080706050403020109000000000000000a000000000000000b00000000000000"
    ),
    (
      .release(lease: 16),
      "031000000000000000"
    ),
    (
      .offer(batch: 17, keys: [key]),
      "0411000000000000000100000008070605040302010900000000000000"
    ),
    (
      .staged([StagedBlock(slot: 18, key: key, step: 23)]),
      "050100000012000000080706050403020109000000000000001700000000000000"
    ),
    (
      .commit([
        CommittedBlock(key: key, parent: parent, digests: [digest]),
        CommittedBlock(key: parent, parent: nil, step: 24),
      ]),
      "060200000008070605040302010900000000000000010a000000000000000b0000000000000001010000000c000000000000000d0000000000000000000000000000000a000000000000000b0000000000000000001800000000000000"
    ),
    (
      .withdraw([key]),
      "070100000008070605040302010900000000000000"
    ),
    (
      .settled(step: 25),
      "0d1900000000000000"
    ),
    (
      .evict(19),
      "081300000000000000"
    ),
    (
      .stats(20),
      "091400000000000000"
    ),
    (
      .ping(21),
      "0a1500000000000000"
    ),
    (
      .welcome(
        LocalWelcome(
          store: incarnation, slotCount: 22, blockBytes: 23, rankCount: 2, stagingSlots: 24)),
      "410e000000000000000f000000000000001600000000000000170000000000000002000000000000001800000000000000"
    ),
    (
      .refused("no"),
      "42020000006e6f"
    ),
    (
      .found(
        lease: 16,
        blocks: [GrantedBlock(slot: SlotIndex(25), generation: 26, digests: [digest, nil])],
        isLast: false),
      "4310000000000000000001000000190000001a00000002000000010c000000000000000d0000000000000000"
    ),
    (
      .notFound(lease: 16, .gone),
      "44100000000000000000"
    ),
    (
      .notFound(lease: 16, .overBudget),
      "44100000000000000001"
    ),
    (
      .notFound(lease: 16, .invalid),
      "44100000000000000002"
    ),
    (
      .wanted(batch: 17, [0, 2]),
      "451100000000000000020000000000000002000000"
    ),
    (
      .freed([18]),
      "460100000012000000"
    ),
    (
      .saved([SaveOutcome(key: key, kind: .sealed), SaveOutcome(key: parent, kind: .lost)]),
      "470200000008070605040302010900000000000000000a000000000000000b0000000000000004"
    ),
    (
      .evicted(19, count: 27),
      "4813000000000000001b00000000000000"
    ),
    (
      .statsAnswer(20, stats),
      "4914000000000000001f000000000000002000000000000000210000000000000022000000000000002300000000000000240000000000000025000000000000002600000000000000270000000000000028000000000000002900000000000000"
    ),
    (
      .pong(21),
      "4a1500000000000000"
    ),
    (
      .want(lease: 16, keys: [key], isLast: true, pace: .milliseconds(5)),
      "0b100000000000000001404b4c00000000000100000008070605040302010900000000000000"
    ),
    (
      .pending(lease: 16),
      "4b1000000000000000"
    ),
    (
      .report(21),
      "0c1500000000000000"
    ),
    (
      .reported(21, "{}", isLast: true),
      "4c150000000000000001020000007b7d"
    ),
  ]

  static let streams: [(StreamMessage, String)] = [
    (
      .hello(StreamHello(node: incarnation, name: "a", terms: nil)),
      "1b00000001020000000e000000000000000f00000000000000010000006100"
    ),
    (
      .hello(
        StreamHello(
          node: incarnation, name: "a",
          terms: PoolTerms(
            fingerprint: Fingerprint(
              protocolVersion: 2, modelDigest: "m", weightEpoch: 3, layout: "l", hashScheme: "h",
              rankCount: 2, numerics: "n"), blockBytes: 4096))),
      "4700000001020000000e000000000000000f00000000000000010000006101"
        + "02000000010000006d0300000000000000010000006c010000006802000000010000006e0010000000000000"
    ),
    (
      .ask(keys: [key], isLast: true), "16000000020101000000" + "08070605040302010900000000000000"
    ),
    (.watch, "0100000003"),
    (
      .welcome(StreamWelcome(node: incarnation, name: "b")),
      "16000000410e000000000000000f000000000000000100000062"
    ),
    (.refused("no"), "0700000042020000006e6f"),
    (
      .block(position: 7, digests: [digest]),
      "190000004307000000010000000c000000000000000d00000000000000"
    ),
    (.end(.served), "020000004400"), (.end(.lacking), "020000004401"),
    (.busy(others: ["b"]), "0a00000049010000000100000062"),
    (.snapshot([], isLast: true), "06000000450100000000"),
    (
      .changes(number: 9, [FeedChange(key: key, isSealed: true)]),
      "1f00000046090000000000000001000000" + "080706050403020109000000000000000100"
    ),
    (.pools([]), "050000004700000000"), (.beat, "0100000048"),
  ]

  @Test(arguments: streams.indices) func `a frame between two nodes`(index: Int) throws {
    let (message, hex) = Self.streams[index]
    #expect(Self.hex(StreamCodec.encode(message)) == hex)
    let read = try Self.bytes(hex).dropFirst(4).withUnsafeBytes { try StreamCodec.decode($0) }
    #expect(read == message)
  }

  @Test(arguments: frames.indices) func `a frame between an engine and its store`(index: Int) throws
  {
    let (message, hex) = Self.frames[index]
    #expect(Self.hex(LocalCodec.encode(message)) == hex)
    #expect(try Self.bytes(hex).withUnsafeBytes { try LocalCodec.decode($0) } == message)
  }

  @Test func `what of a block is hashed to its key`() {
    let scope = KeyScope(
      modelDigest: "model-digest", weightEpoch: 7, adapter: "adapter", tenantSalt: "salt",
      layoutDigest: "layout", numerics: "numerics")
    let heard = Heard()
    let chain = KeyChain(
      scope: scope, tokensPerBlock: 4,
      hash: HashFunction(name: "listening") { bytes in
        heard.texts.append(Self.hex(bytes))
        // The key that the first block has under SHA-256.
        return Self.bytes("210b6043fc97d29c0a4195eda357157b") + [UInt8](repeating: 0, count: 16)
      })
    let keys = chain.keys(of: [1, -2, 300, 70_000, 4, 5, 6, 7, 8])
    #expect(
      keys.first == BlockKey(high: 0x210B_6043_FC97_D29C, low: 0x0A41_95ED_A357_157B))
    #expect(
      heard.texts == [
        "72656d6f74652d67322f626c6f636b2d6b65792f3100000000000000000000000000000000000c000000000000006d6f64656c2d646967657374010000000000000037070000000000000061646170746572040000000000000073616c7406000000000000006c61796f757408000000000000006e756d6572696373040000000000000001000000feffffff2c01000070110100",
        "72656d6f74652d67322f626c6f636b2d6b65792f31019cd297fc43600b217b1557a3ed95410a0c000000000000006d6f64656c2d646967657374010000000000000037070000000000000061646170746572040000000000000073616c7406000000000000006c61796f757408000000000000006e756d6572696373040000000000000004000000050000000600000007000000",
      ])
  }

  /// Filled by a closure that must be Sendable; this test calls it on its own thread.
  private final class Heard: @unchecked Sendable {
    // @unchecked: one test, one thread.
    var texts: [String] = []
  }
}

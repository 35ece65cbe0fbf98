import RemoteG2Core
import Testing

@Suite struct `Stream messages` {
  static let terms = PoolTerms(
    fingerprint: Fingerprint(
      modelDigest: "m", weightEpoch: 3, layout: "l", hashScheme: "h", rankCount: 2, numerics: "n"),
    blockBytes: 4096)
  static let node = Incarnation(high: 1, low: 2)
  static let keys = (0..<5).map { BlockKey(high: UInt64($0), low: 7) }
  static let all: [StreamMessage] = [
    .hello(StreamHello(node: node, name: "a", terms: terms)),
    .hello(StreamHello(node: node, name: "a", terms: nil)),
    .ask(keys: keys, isLast: false), .ask(keys: keys, isLast: true), .watch,
    .welcome(StreamWelcome(node: node, name: "b")), .refused("because"),
    .block(position: 7, digests: [Digest128(high: 1, low: 2), Digest128(high: 3, low: 4)]),
    .end(.served), .end(.lacking), .busy(others: ["b", "c"]),
    .snapshot(keys, isLast: false), .snapshot([], isLast: true),
    .changes(
      number: 9,
      [FeedChange(key: keys[0], isSealed: true), FeedChange(key: keys[1], isSealed: false)]),
    .pools([terms]), .pools([]), .beat,
  ]

  /// All messages that come out of these bytes, given in pieces of random length.
  static func read(
    _ bytes: [UInt8], _ generator: inout some RandomNumberGenerator
  ) throws(WireError) -> [StreamMessage] {
    var (intake, place, found) = (FrameIntake(), 0, [StreamMessage]())
    while place < bytes.count {
      let count = min(Int.random(in: 1...intake.wanted, using: &generator), bytes.count - place)
      let piece = Array(bytes[place..<place + count])
      place += count
      let result: Result<StreamMessage?, WireError> = piece.withUnsafeBytes { raw in
        do throws(WireError) { return .success(try intake.take(raw)) } catch {
          return .failure(error)
        }
      }
      if let message = try result.get() { found.append(message) }
    }
    return found
  }

  @Test func `come out as they went in, however the bytes are cut`() throws {
    var generator = TestGenerator(seed: 3)
    let bytes = Self.all.flatMap { StreamCodec.encode($0) }
    for _ in 0..<50 {
      #expect(try Self.read(bytes, &generator) == Self.all)
    }
  }

  @Test func `of the largest pages fit a frame`() throws {
    let keys = (0..<StreamCodec.keysPerPage).map { BlockKey(high: UInt64($0), low: 1) }
    let changes = (0..<Feed.changesPerBatch).map {
      FeedChange(key: BlockKey(high: UInt64($0), low: 1), isSealed: true)
    }
    var generator = TestGenerator(seed: 4)
    let messages: [StreamMessage] = [
      .ask(keys: keys, isLast: true), .snapshot(keys, isLast: false),
      .changes(number: 1, changes),
    ]
    #expect(try Self.read(messages.flatMap { StreamCodec.encode($0) }, &generator) == messages)
  }

  @Test func `that are broken are refused, and read beyond nothing`() {
    var generator = TestGenerator(seed: 5)
    var refused = 0
    for _ in 0..<20_000 {
      var bytes = StreamCodec.encode(Self.all.randomElement(using: &generator) ?? .beat)
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      do throws(WireError) { _ = try Self.read(bytes, &generator) } catch { refused += 1 }
    }
    #expect(refused > 5_000)
  }

  @Test(arguments: [
    // A frame of nothing, one that is too long, and one with something after its end.
    ([0, 0, 0, 0], WireError.truncated),
    ([1, 0, 1, 0], .tooMany(65537, max: 65536)),
    ([2, 0, 0, 0, 3, 9], .trailing(1)),
    ([1, 0, 0, 0, 99], .unknown("message 99")),
  ])
  func `say what is wrong with them`(bytes: [UInt8], error: WireError) {
    var generator = TestGenerator(seed: 6)
    #expect(throws: error) { _ = try Self.read(bytes, &generator) }
  }

  @Test func `name what differs between two pools`() {
    var other = Self.terms
    #expect(Self.terms.mismatch(with: other) == nil)
    other.blockBytes = 8192
    #expect(Self.terms.mismatch(with: other)?.field == "block bytes")
    other.fingerprint.hashScheme = "x"
    #expect(Self.terms.mismatch(with: other)?.field == "hash scheme")
  }
}

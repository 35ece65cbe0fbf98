import ContentDigest
import RemoteG2Core
import Testing

/// Made by another program with another binding of XXH3; see `Known answers` for why they must stay.
@Suite struct `Known digests` {
  static let bytes = (0..<1000).map { UInt8(($0 * 7 + 3) % 256) }
  static let key = BlockKey(high: 0x0123_4567_89AB_CDEF, low: 0xFEDC_BA98_7654_3210)

  @Test func `a block's digest depends on its key and rank as it always did`() {
    func digest(_ rank: Int) -> String {
      Self.bytes.withUnsafeBytes { ContentDigest.of($0, key: Self.key, rank: rank).description }
    }
    #expect(digest(0) == "9ed345c5f0caca067df5571d5d7807cd")
    #expect(digest(3) == "1ac9e9183b1ed7d395e70fd7a3498041")
  }

  @Test func `a block in pieces has the digest that it has as a whole`() {
    var stream = StreamingDigest()
    // What was begun before does not count.
    Self.bytes.withUnsafeBytes { stream.add($0) }
    for rank in [0, 3] {
      stream.begin(key: Self.key, rank: rank)
      for piece in [0..<1, 1..<700, 700..<1000] {
        Self.bytes[piece].withUnsafeBytes { stream.add($0) }
      }
      let whole = Self.bytes.withUnsafeBytes { ContentDigest.of($0, key: Self.key, rank: rank) }
      #expect(stream.value() == whole)
    }
  }

  @Test func `bytes without a name have the digest they always had`() {
    #expect(ContentDigest.of(Self.bytes).description == "6bcc7eff62da44c26c4f14bd97bd9e82")
    var stream = StreamingDigest()
    Self.bytes[..<333].withUnsafeBytes { stream.add($0) }
    Self.bytes[333...].withUnsafeBytes { stream.add($0) }
    #expect(stream.value().description == "6bcc7eff62da44c26c4f14bd97bd9e82")
  }
}

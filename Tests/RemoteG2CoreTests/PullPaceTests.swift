import RemoteG2Core
import Testing

@Suite struct `The pace of a first block` {
  static func at(_ milliseconds: Double) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(milliseconds * 1e6))
  }

  /// What becomes known, and when, of bytes that come so.
  static func told(
    _ pieces: [(at: Double, bytes: Int)], firstByteAfter: Duration
  ) -> (after: Double, rate: Double)? {
    var (pace, all) = (PullPace(Limits()), 0)
    for piece in pieces {
      all += piece.bytes
      if let rate = pace.heard(all, firstByteAfter: firstByteAfter, at: at(piece.at)) {
        return (piece.at - pieces[0].at, rate)
      }
    }
    return nil
  }

  @Test func `is known after two spans where it is steady, whatever came at first`() throws {
    // 10 Mbit/s, of which 32 KB were let through at once.
    for first in [1_250, 32_768] {
      let pieces = (0..<500).map { (at: Double($0), bytes: $0 == 0 ? first : 1_250) }
      let found = try #require(Self.told(pieces, firstByteAfter: .milliseconds(1)))
      #expect(found.after == 50 && abs(found.rate / 1.25e6 - 1) < 0.01, "\(found)")
    }
  }

  @Test func `is not known while a connection to a member far away still grows`() throws {
    // Ten packets at first, and with each round trip of 50 ms twice as many, until 40 of them are the most.
    var pieces: [(at: Double, bytes: Int)] = []
    for trip in 0..<20 {
      let packets = 10 << min(trip, 5)
      // Not all at once: as acknowledgements came.
      for packet in 0..<packets {
        pieces.append((Double(trip) * 50 + 10 * Double(packet) / Double(packets), 1_460))
      }
    }
    let found = try #require(Self.told(pieces, firstByteAfter: .milliseconds(51)))
    // From the sixth round trip on it is steady.
    #expect(found.after > 300, "\(found)")
    #expect(abs(found.rate / (320 * 1_460 / 0.05) - 1) < 0.1, "\(found)")
  }

  @Test(arguments: [40.0, 99, 300])
  func `is not known of a connection that was silent for a while`(silence: Double) {
    // 30 MB/s: a packet of 64 KB every 2.2 ms; then nothing, and what comes after it comes as before.
    var pieces = (0..<24).map { (at: Double($0) * 2.2, bytes: 65_536) }
    pieces += (0..<200).map { (at: 50.6 + silence + Double($0) * 2.2, bytes: 65_536) }
    let found = Self.told(pieces, firstByteAfter: .milliseconds(1))
    #expect(found.map { $0.rate > 2e7 } ?? true, "\(String(describing: found))")
    // Stopped before its first look, too.
    let late = Self.told(
      pieces.filter { $0.at < 20 || $0.at > 50 }, firstByteAfter: .milliseconds(1))
    #expect(late.map { $0.rate > 2e7 } ?? true, "\(String(describing: late))")
  }

  @Test func `is not known of what does not come`() {
    #expect(Self.told([(0, 9), (400, 0), (900, 0)], firstByteAfter: .zero) == nil)
  }
}

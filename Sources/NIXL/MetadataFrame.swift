internal import ContentDigest
internal import RemoteG2Core

/// An agent's metadata as it travels: magic, version, length, digest, then NIXL's own bytes.
///
/// NIXL drops a *known* peer when it is given truncated metadata for it, so what arrives is checked
/// whole before NIXL sees any of it.
package enum MetadataFrame {
  package enum Fault: Error, Equatable, Sendable {
    case notAFrame
    case version(UInt8)
    case length(declared: Int, actual: Int)
    case tooLong(Int, max: Int)
    case digest
  }

  private static let magic = Array("RG2M".utf8)
  private static let version: UInt8 = 1
  private static let headerBytes = 4 + 1 + 8 + 16

  package static func encode(_ payload: [UInt8]) -> [UInt8] {
    let digest = ContentDigest.of(payload)
    return magic + [version] + word(UInt64(payload.count)) + word(digest.high) + word(digest.low)
      + payload
  }

  package static func decode(_ frame: [UInt8], bytesMax: Int) throws(Fault) -> [UInt8] {
    guard frame.count <= bytesMax + headerBytes else { throw .tooLong(frame.count, max: bytesMax) }
    guard frame.count >= headerBytes, Array(frame[0..<4]) == magic else { throw .notAFrame }
    guard frame[4] == version else { throw .version(frame[4]) }
    let payload = Array(frame[headerBytes...])
    let declared = word(at: 5, of: frame)
    guard declared == UInt64(payload.count) else {
      throw .length(declared: Int(clamping: declared), actual: payload.count)
    }
    let digest = Digest128(high: word(at: 13, of: frame), low: word(at: 21, of: frame))
    guard ContentDigest.of(payload) == digest else { throw .digest }
    return payload
  }

  private static func word(_ value: UInt64) -> [UInt8] {
    stride(from: UInt64(0), to: 64, by: 8).map { UInt8(truncatingIfNeeded: value >> $0) }
  }

  private static func word(at first: Int, of bytes: [UInt8]) -> UInt64 {
    bytes[first..<first + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }
}

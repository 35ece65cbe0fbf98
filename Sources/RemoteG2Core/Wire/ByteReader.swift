/// Why bytes are no message. Whoever sent them is at fault.
public enum WireError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The message ends in the middle of a value.
  case truncated
  /// A count is larger than what it counts may be here.
  case tooMany(Int, max: Int)
  /// A value that no sender of this version writes.
  case unknown(String)
  /// Bytes follow the message's end.
  case trailing(Int)

  public var description: String {
    switch self {
    case .truncated: "the message is cut off"
    case .tooMany(let count, let most): "a list of \(count) where at most \(most) fit"
    case .unknown(let what): "unknown \(what)"
    case .trailing(let count): "\(count) bytes follow the message's end"
    }
  }
}

/// Reads what ``ByteWriter`` wrote. Every count is checked before anything is allocated for it.
public struct ByteReader: ~Copyable {
  private let bytes: UnsafeRawBufferPointer
  private var offset = 0

  /// - Parameter bytes: Must stay valid while this reader is used.
  public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  public var remaining: Int { bytes.count - offset }

  public mutating func integer<Value: FixedWidthInteger>(
    _ type: Value.Type = Value.self
  ) throws(WireError) -> Value {
    let width = MemoryLayout<Value>.size
    guard remaining >= width else { throw .truncated }
    defer { offset += width }
    return Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: Value.self))
  }

  public mutating func bool() throws(WireError) -> Bool {
    switch try integer(UInt8.self) {
    case 0: return false
    case 1: return true
    case let other: throw .unknown("truth value \(other)")
    }
  }

  /// A count of things that take at least `each` bytes each.
  public mutating func count(max most: Int, each: Int = 1) throws(WireError) -> Int {
    let value = Int(try integer(UInt32.self))
    guard value <= most else { throw .tooMany(value, max: most) }
    guard value * each <= remaining else { throw .truncated }
    return value
  }

  public mutating func text(max most: Int = 4096) throws(WireError) -> String {
    let bytes = try raw(max: most)
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw .unknown("text that is not UTF-8")
    }
    return text
  }

  public mutating func raw(max most: Int) throws(WireError) -> [UInt8] {
    let length = try count(max: most)
    defer { offset += length }
    return Array(bytes[offset..<offset + length])
  }

  public mutating func list<Element>(
    max most: Int, each: Int = 1,
    _ read: (inout ByteReader) throws(WireError) -> Element
  ) throws(WireError) -> [Element] {
    let length = try count(max: most, each: each)
    var values: [Element] = []
    values.reserveCapacity(length)
    for _ in 0..<length { values.append(try read(&self)) }
    return values
  }

  public mutating func optional<Value>(
    _ read: (inout ByteReader) throws(WireError) -> Value
  ) throws(WireError) -> Value? {
    try bool() ? try read(&self) : nil
  }

  /// Nothing may follow.
  public func end() throws(WireError) {
    guard remaining == 0 else { throw .trailing(remaining) }
  }
}

/// Reads the values that several messages carry.
extension ByteReader {
  public mutating func incarnation() throws(WireError) -> Incarnation {
    Incarnation(high: try integer(), low: try integer())
  }
  public mutating func key() throws(WireError) -> BlockKey {
    BlockKey(high: try integer(), low: try integer())
  }
  public mutating func digest() throws(WireError) -> Digest128 {
    Digest128(high: try integer(), low: try integer())
  }
  public mutating func duration() throws(WireError) -> Duration {
    .nanoseconds(try integer(Int64.self))
  }
  public mutating func fingerprint() throws(WireError) -> Fingerprint {
    Fingerprint(
      protocolVersion: try integer(), modelDigest: try text(), weightEpoch: try integer(),
      layout: try text(), hashScheme: try text(), rankCount: try integer(), numerics: try text())
  }
}

/// Writes values as bytes, little-endian, counts before what is counted.
public struct ByteWriter: Sendable {
  public private(set) var bytes: [UInt8]

  public init(capacity: Int = 256) {
    bytes = []
    bytes.reserveCapacity(capacity)
  }

  /// Writes any fixed-width integer in its own width.
  public mutating func integer<Value: FixedWidthInteger>(_ value: Value) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }

  public mutating func bool(_ value: Bool) { bytes.append(value ? 1 : 0) }

  /// A count of what follows. Counts are 32 bits wide.
  public mutating func count(_ value: Int) { integer(UInt32(value)) }

  public mutating func text(_ value: String) {
    count(value.utf8.count)
    bytes.append(contentsOf: value.utf8)
  }

  public mutating func raw(_ value: [UInt8]) {
    count(value.count)
    bytes.append(contentsOf: value)
  }

  public mutating func list<Element>(
    _ values: some Collection<Element>, _ write: (inout ByteWriter, Element) -> Void
  ) {
    count(values.count)
    for value in values { write(&self, value) }
  }

  /// Whether it is there, and then it.
  public mutating func optional<Value>(
    _ value: Value?, _ write: (inout ByteWriter, Value) -> Void
  ) {
    bool(value != nil)
    if let value { write(&self, value) }
  }
}

/// Writes the values that several messages carry.
extension ByteWriter {
  public mutating func incarnation(_ value: Incarnation) {
    integer(value.high)
    integer(value.low)
  }
  public mutating func key(_ value: BlockKey) {
    integer(value.high)
    integer(value.low)
  }
  public mutating func digest(_ value: Digest128) {
    integer(value.high)
    integer(value.low)
  }
  public mutating func duration(_ value: Duration) { integer(value.nanoseconds) }
  public mutating func fingerprint(_ value: Fingerprint) {
    integer(value.protocolVersion)
    text(value.modelDigest)
    integer(value.weightEpoch)
    text(value.layout)
    text(value.hashScheme)
    integer(value.rankCount)
    text(value.numerics)
  }
}

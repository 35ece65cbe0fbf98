/// Puts a GGUF file of version 3 together, little-endian, F32 tensors only.
struct GGUFWriter {
  enum Value {
    case unsigned(UInt32)
    case real(Float)
    case text(String)
    case texts([String])
    case signeds([Int32])
  }

  private static let alignment = 32

  private var entries: [UInt8] = []
  private var entryCount = 0
  private var table: [UInt8] = []
  private var tensorCount = 0
  private var data: [UInt8] = []

  mutating func add(_ key: String, _ value: Value) {
    Self.append(key, to: &entries)
    switch value {
    case .unsigned(let number):
      Self.append(UInt32(4), to: &entries)
      Self.append(number, to: &entries)
    case .real(let number):
      Self.append(UInt32(6), to: &entries)
      Self.append(number.bitPattern, to: &entries)
    case .text(let text):
      Self.append(UInt32(8), to: &entries)
      Self.append(text, to: &entries)
    case .texts(let texts):
      Self.append(UInt32(9), to: &entries)
      Self.append(UInt32(8), to: &entries)
      Self.append(UInt64(texts.count), to: &entries)
      for text in texts { Self.append(text, to: &entries) }
    case .signeds(let numbers):
      Self.append(UInt32(9), to: &entries)
      Self.append(UInt32(5), to: &entries)
      Self.append(UInt64(numbers.count), to: &entries)
      for number in numbers { Self.append(number, to: &entries) }
    }
    entryCount += 1
  }

  /// - Parameter shape: Fastest-varying first.
  mutating func add(tensor name: String, shape: [Int], _ values: [Float]) {
    precondition(values.count == shape.reduce(1, *), "\(name) has \(values.count) values")
    Self.append(name, to: &table)
    Self.append(UInt32(shape.count), to: &table)
    for size in shape { Self.append(UInt64(size), to: &table) }
    Self.append(UInt32(0), to: &table)
    Self.append(UInt64(data.count), to: &table)
    for value in values { Self.append(value.bitPattern, to: &data) }
    Self.pad(&data)
    tensorCount += 1
  }

  func bytes() -> [UInt8] {
    var bytes: [UInt8] = []
    Self.append(UInt32(0x4655_4747), to: &bytes)
    Self.append(UInt32(3), to: &bytes)
    Self.append(UInt64(tensorCount), to: &bytes)
    Self.append(UInt64(entryCount), to: &bytes)
    bytes += entries
    bytes += table
    Self.pad(&bytes)
    return bytes + data
  }

  private static func append(_ number: some FixedWidthInteger, to bytes: inout [UInt8]) {
    withUnsafeBytes(of: number.littleEndian) { bytes += $0 }
  }

  private static func append(_ text: String, to bytes: inout [UInt8]) {
    append(UInt64(text.utf8.count), to: &bytes)
    bytes += Array(text.utf8)
  }

  private static func pad(_ bytes: inout [UInt8]) {
    while bytes.count % alignment != 0 { bytes.append(0) }
  }
}

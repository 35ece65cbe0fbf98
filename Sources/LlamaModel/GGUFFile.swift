internal import Glibc

/// A GGUF file, mapped and bounds-checked: its metadata and where its tensors are.
public final class GGUFFile: @unchecked Sendable {
  // @unchecked: the mapping is read-only and lives as long as the object.
  public enum Value: Equatable, Sendable {
    case unsigned(UInt64)
    case signed(Int64)
    case real(Double)
    case bool(Bool)
    case text(String)
    case array([Value])
  }

  public struct Tensor: Equatable, Sendable {
    public let name: String
    /// Fastest-varying first, as ggml writes it.
    public let shape: [Int]
    public let type: UInt32
    public let offset: Int
    public let byteCount: Int
    public var elementCount: Int { shape.reduce(1, *) }
  }

  /// Bounds on what a file may claim before anything is allocated for it.
  private static let entriesMax: UInt64 = 1 << 20
  private static let elementsMax: UInt64 = 1 << 24
  private static let nestingMax = 4

  public let path: String
  public let byteCount: Int
  public private(set) var metadata: [String: Value] = [:]
  public private(set) var tensors: [String: Tensor] = [:]
  private let base: UnsafeRawPointer

  /// - Throws: ``ModelError`` naming the first thing that is wrong.
  public init(path: String) throws(ModelError) {
    self.path = path
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw .cannotOpen(path: path, reason: String(cString: strerror(errno)))
    }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      throw .cannotOpen(path: path, reason: "it is not a regular file")
    }
    guard status.st_size >= 24 else { throw .notGGUF(path: path) }
    byteCount = Int(status.st_size)
    let mapping = mmap(nil, byteCount, PROT_READ, MAP_PRIVATE, descriptor, 0)
    guard let mapping, mapping != MAP_FAILED else {
      throw .cannotOpen(path: path, reason: String(cString: strerror(errno)))
    }
    base = UnsafeRawPointer(mapping)
    try parse()
  }

  deinit { munmap(UnsafeMutableRawPointer(mutating: base), byteCount) }

  /// The first byte of a tensor. Valid while the file object lives.
  public func pointer(to tensor: Tensor) -> UnsafeRawPointer { base + tensor.offset }

  // MARK: Parsing

  private struct Cursor {
    var offset = 0
    var part = "the header"
  }

  private func parse() throws(ModelError) {
    var cursor = Cursor()
    guard try read(UInt32.self, &cursor) == 0x4655_4747 else { throw .notGGUF(path: path) }
    let version = try read(UInt32.self, &cursor)
    guard version == 2 || version == 3 else { throw .version(path: path, version) }
    let tensorCount = try read(UInt64.self, &cursor)
    let entryCount = try read(UInt64.self, &cursor)
    guard tensorCount <= Self.entriesMax, entryCount <= Self.entriesMax else {
      throw .malformed(path: path, "it claims \(tensorCount) tensors and \(entryCount) keys")
    }
    cursor.part = "the metadata"
    for _ in 0..<entryCount {
      let key = try text(&cursor)
      let type = try read(UInt32.self, &cursor)
      metadata[key] = try value(type, &cursor, depth: 0)
    }
    cursor.part = "the tensor table"
    var listed: [(name: String, shape: [Int], type: UInt32, offset: UInt64)] = []
    for _ in 0..<tensorCount {
      let name = try text(&cursor)
      let dimensions = try read(UInt32.self, &cursor)
      guard dimensions >= 1, dimensions <= 4 else {
        throw .malformed(path: path, "tensor \(name) has \(dimensions) dimensions")
      }
      var shape: [Int] = []
      var product = 1
      for _ in 0..<dimensions {
        let size = try read(UInt64.self, &cursor)
        guard size > 0, size < 1 << 32 else {
          throw .malformed(path: path, "tensor \(name) has a dimension of \(size)")
        }
        let (next, overflow) = product.multipliedReportingOverflow(by: Int(size))
        guard !overflow, next < 1 << 40 else {
          throw .malformed(path: path, "tensor \(name) is larger than any file")
        }
        product = next
        shape.append(Int(size))
      }
      listed.append((name, shape, try read(UInt32.self, &cursor), try read(UInt64.self, &cursor)))
    }
    var alignment = 32
    if case .unsigned(let declared)? = metadata["general.alignment"] {
      guard declared > 0, declared <= 1 << 16 else {
        throw .malformed(path: path, "its alignment is \(declared)")
      }
      alignment = Int(declared)
    }
    let dataStart = (cursor.offset + alignment - 1) / alignment * alignment
    for (name, shape, type, offset) in listed {
      guard let bytes = Self.byteCount(shape: shape, type: type) else {
        throw .unsupportedType(path: path, tensor: name, type: type)
      }
      guard offset < UInt64(byteCount), dataStart + Int(offset) + bytes <= byteCount else {
        throw .truncated(path: path, while: "tensor \(name)")
      }
      guard tensors[name] == nil else {
        throw .malformed(path: path, "tensor \(name) is listed twice")
      }
      tensors[name] = Tensor(
        name: name, shape: shape, type: type, offset: dataStart + Int(offset), byteCount: bytes)
    }
  }

  /// Bytes of a tensor, or nil for a type this package does not read.
  private static func byteCount(shape: [Int], type: UInt32) -> Int? {
    let count = shape.reduce(1, *)
    switch GGMLType(rawValue: type) {
    case .f32?: return count * 4
    case .f16?: return count * 2
    case .q4_1?: return shape[0] % 32 == 0 ? count / 32 * 20 : nil
    case .q8_0?: return shape[0] % 32 == 0 ? count / 32 * 34 : nil
    case nil: return nil
    }
  }

  private func read<Number: FixedWidthInteger>(
    _ type: Number.Type, _ cursor: inout Cursor
  ) throws(ModelError) -> Number {
    let size = MemoryLayout<Number>.size
    guard cursor.offset + size <= byteCount else {
      throw .truncated(path: path, while: cursor.part)
    }
    defer { cursor.offset += size }
    return Number(littleEndian: base.loadUnaligned(fromByteOffset: cursor.offset, as: Number.self))
  }

  private func text(_ cursor: inout Cursor) throws(ModelError) -> String {
    let count = try read(UInt64.self, &cursor)
    guard count <= UInt64(byteCount - cursor.offset) else {
      throw .truncated(path: path, while: cursor.part)
    }
    defer { cursor.offset += Int(count) }
    return String(
      decoding: UnsafeRawBufferPointer(start: base + cursor.offset, count: Int(count)),
      as: UTF8.self)
  }

  private func value(
    _ type: UInt32, _ cursor: inout Cursor, depth: Int
  ) throws(ModelError) -> Value {
    switch type {
    case 0: return .unsigned(UInt64(try read(UInt8.self, &cursor)))
    case 1: return .signed(Int64(try read(Int8.self, &cursor)))
    case 2: return .unsigned(UInt64(try read(UInt16.self, &cursor)))
    case 3: return .signed(Int64(try read(Int16.self, &cursor)))
    case 4: return .unsigned(UInt64(try read(UInt32.self, &cursor)))
    case 5: return .signed(Int64(try read(Int32.self, &cursor)))
    case 6: return .real(Double(Float(bitPattern: try read(UInt32.self, &cursor))))
    case 7: return .bool(try read(UInt8.self, &cursor) != 0)
    case 8: return .text(try text(&cursor))
    case 9:
      guard depth < Self.nestingMax else { throw .malformed(path: path, "arrays nest too deep") }
      let element = try read(UInt32.self, &cursor)
      let count = try read(UInt64.self, &cursor)
      guard count <= Self.elementsMax else {
        throw .malformed(path: path, "an array claims \(count) elements")
      }
      guard count <= UInt64(byteCount - cursor.offset) else {
        throw .truncated(path: path, while: cursor.part)
      }
      var elements: [Value] = []
      elements.reserveCapacity(Int(count))
      for _ in 0..<count { elements.append(try value(element, &cursor, depth: depth + 1)) }
      return .array(elements)
    case 10: return .unsigned(try read(UInt64.self, &cursor))
    case 11: return .signed(try read(Int64.self, &cursor))
    case 12: return .real(Double(bitPattern: try read(UInt64.self, &cursor)))
    default: throw .malformed(path: path, "a value has unknown type \(type)")
    }
  }
}

/// The tensor types this package reads, as ggml numbers them.
public enum GGMLType: UInt32, Sendable {
  case f32 = 0
  case f16 = 1
  case q4_1 = 3
  case q8_0 = 8
}

extension GGUFFile {
  public func integer(_ key: String) throws(ModelError) -> Int {
    switch metadata[key] {
    case .unsigned(let value)? where value <= UInt64(Int32.max): return Int(value)
    case .signed(let value)? where abs(value) <= Int64(Int32.max): return Int(value)
    case nil: throw .missing(path: path, key: key)
    default: throw .malformed(path: path, "\(key) is not a usable integer")
    }
  }

  public func real(_ key: String) throws(ModelError) -> Double {
    switch metadata[key] {
    case .real(let value)?: return value
    case nil: throw .missing(path: path, key: key)
    default: throw .malformed(path: path, "\(key) is not a number")
    }
  }

  public func text(_ key: String) throws(ModelError) -> String {
    switch metadata[key] {
    case .text(let value)?: return value
    case nil: throw .missing(path: path, key: key)
    default: throw .malformed(path: path, "\(key) is not a text")
    }
  }

  public func texts(_ key: String) throws(ModelError) -> [String] {
    guard let value = metadata[key] else { throw .missing(path: path, key: key) }
    guard case .array(let values) = value else {
      throw .malformed(path: path, "\(key) is not a list")
    }
    var texts: [String] = []
    texts.reserveCapacity(values.count)
    for value in values {
      guard case .text(let text) = value else {
        throw .malformed(path: path, "\(key) is not a list of texts")
      }
      texts.append(text)
    }
    return texts
  }

  /// A tensor of exactly this shape, fastest-varying dimension first.
  public func tensor(_ name: String, shape: [Int]) throws(ModelError) -> Tensor {
    guard let tensor = tensors[name] else { throw .missing(path: path, key: "tensor \(name)") }
    guard tensor.shape == shape else {
      throw .shape(path: path, tensor: name, expected: shape, actual: tensor.shape)
    }
    return tensor
  }
}

public import RemoteG2Core

/// What a demonstration or a test orders of the rigs of all ranks.
public enum RigOrder: Equatable, Sendable {
  /// Hold the peers' transfers of these ranks (nil: of all) to a rate; nil: to none.
  case pace(bytesPerSecond: Double?, transferBlocks: Int, ranks: [Int]?)
  /// Let transfers of these ranks go wrong in one way; nil: in none.
  case inject(TransferFault?, ranks: [Int])
  /// Tell every moment of every transfer, or stop to.
  case trace(Bool)

  /// As it travels in ``RankOrder/rig(_:)``, between processes of one build.
  public var bytes: [UInt8] {
    var writer = ByteWriter()
    switch self {
    case .pace(let rate, let blocks, let ranks):
      writer.integer(UInt8(0))
      writer.optional(rate) { $0.integer($1.bitPattern) }
      writer.integer(Int64(blocks))
      writer.optional(ranks) { writer, ranks in writer.list(ranks) { $0.integer(Int64($1)) } }
    case .inject(let fault, let ranks):
      writer.integer(UInt8(1))
      writer.optional(fault) { $0.text($1.rawValue) }
      writer.list(ranks) { $0.integer(Int64($1)) }
    case .trace(let isOn):
      writer.integer(UInt8(2))
      writer.bool(isOn)
    }
    return writer.bytes
  }

  public init(_ bytes: [UInt8]) throws(WireError) {
    // A typed error does not come out of the standard library's closure, so that it is carried out.
    self = try bytes.withUnsafeBytes { buffer -> Result<RigOrder, WireError> in
      var reader = ByteReader(buffer)
      do throws(WireError) {
        let order = try RigOrder(from: &reader)
        try reader.end()
        return .success(order)
      } catch { return .failure(error) }
    }.get()
  }

  private init(from reader: inout ByteReader) throws(WireError) {
    switch try reader.integer(UInt8.self) {
    case 0:
      self = .pace(
        bytesPerSecond: try reader.optional { reader throws(WireError) in
          Double(bitPattern: try reader.integer())
        },
        transferBlocks: Int(try reader.integer(Int64.self)),
        ranks: try reader.optional { reader throws(WireError) in try Self.ranks(&reader) })
    case 1:
      let name = try reader.optional { reader throws(WireError) in try reader.text() }
      let fault = name.flatMap(TransferFault.init(rawValue:))
      if let name, fault == nil { throw .unknown("fault \(name)") }
      self = .inject(fault, ranks: try Self.ranks(&reader))
    case 2: self = .trace(try reader.bool())
    case let other: throw .unknown("order of a rig \(other)")
    }
  }

  private static func ranks(_ reader: inout ByteReader) throws(WireError) -> [Int] {
    try reader.list(max: 64, each: 8) { reader throws(WireError) in
      Int(try reader.integer(Int64.self))
    }
  }
}

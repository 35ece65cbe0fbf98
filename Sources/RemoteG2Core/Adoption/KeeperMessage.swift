/// What a node's keeper and the process that serves for it tell each other. Files travel beside the messages.
package enum KeeperMessage: Equatable, Sendable {
  /// One of a pool's files: part 0 is its table, part 1 the pool of rank 0.
  case keep(Incarnation, part: UInt16)
  /// Those files are needed no more.
  case drop(Incarnation)
  /// To who begins to serve: that was all there is.
  ///
  /// - Parameter port: Where the one before it listened; 0: it is the first.
  case begin(life: UInt32, port: UInt16)
  /// From who serves, once it can be reached.
  case serves(port: UInt16)
  /// From who serves, once it has looked at all that it was handed.
  case settled

  package static let bytesMax = 32

  package var bytes: [UInt8] {
    var out = ByteWriter(capacity: Self.bytesMax)
    switch self {
    case .keep(let files, let part):
      out.integer(UInt8(1))
      out.incarnation(files)
      out.integer(part)
    case .drop(let files):
      out.integer(UInt8(2))
      out.incarnation(files)
    case .begin(let life, let port):
      out.integer(UInt8(3))
      out.integer(life)
      out.integer(port)
    case .serves(let port):
      out.integer(UInt8(4))
      out.integer(port)
    case .settled: out.integer(UInt8(5))
    }
    return out.bytes
  }

  package init(_ bytes: UnsafeRawBufferPointer) throws(WireError) {
    var input = ByteReader(bytes)
    switch try input.integer(UInt8.self) {
    case 1: self = .keep(try input.incarnation(), part: try input.integer())
    case 2: self = .drop(try input.incarnation())
    case 3: self = .begin(life: try input.integer(), port: try input.integer())
    case 4: self = .serves(port: try input.integer())
    case 5: self = .settled
    case let other: throw .unknown("keeper message \(other)")
    }
    try input.end()
  }
}

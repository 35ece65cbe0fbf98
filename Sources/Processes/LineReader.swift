internal import Glibc

/// Reads a descriptor line by line, with a bound on a line's length. Blocks its thread.
package struct LineReader {
  package enum Line: Equatable, Sendable {
    case text([UInt8])
    /// It was longer than the bound, and was skipped whole.
    case tooLong
  }

  private let descriptor: Int32
  private let bytesMax: Int
  private var rest: [UInt8] = []
  private var scanned = 0
  private var isSkipping = false

  /// - Parameter descriptor: Stays the caller's to close.
  package init(_ descriptor: Int32, bytesMax: Int) {
    self.descriptor = descriptor
    self.bytesMax = bytesMax
  }

  /// The next line without its end, or nil when the input has ended.
  package mutating func next() -> Line? {
    while true {
      if let end = rest[scanned...].firstIndex(of: UInt8(ascii: "\n")) {
        let line = Array(rest[..<end])
        rest.removeSubrange(...end)
        scanned = 0
        if isSkipping || line.count > bytesMax {
          isSkipping = false
          return .tooLong
        }
        return .text(line)
      }
      scanned = rest.count
      if rest.count > bytesMax {
        rest = []
        scanned = 0
        isSkipping = true
      }
      guard let chunk = readSome(descriptor), !chunk.isEmpty else { return nil }
      rest += chunk
    }
  }
}

/// Some bytes, none at the end of the input, nil on an error. A signal is not an error.
func readSome(_ descriptor: Int32) -> [UInt8]? {
  var buffer = [UInt8](repeating: 0, count: 65536)
  while true {
    let count = read(descriptor, &buffer, buffer.count)
    if count >= 0 { return Array(buffer[..<count]) }
    if errno != EINTR { return nil }
  }
}

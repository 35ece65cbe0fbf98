/// Where a service's members are, by the name service's own message (RFC 1035, RFC 2782).
package struct ServiceRecord: Hashable, Sendable {
  package let priority: UInt16
  package let port: Int
  /// Without the dot at its end.
  package let host: String

  package init(priority: UInt16, port: Int, host: String) {
    self.priority = priority
    self.port = port
    self.host = host
  }
}

/// Reads SRV records out of an answer. Whatever it is given, it ends.
package enum DNSAnswer {
  package enum Invalid: Error, Equatable, Sendable { case truncated, pointers, notAnswer }

  private static let service: UInt16 = 33
  private static let internet: UInt16 = 1
  /// Of a name: more would be a loop.
  private static let jumpsMax = 32
  private static let recordsMax = 256

  package static func services(_ bytes: [UInt8]) throws(Invalid) -> [ServiceRecord] {
    var input = Input(bytes)
    _ = try input.number()
    let flags = try input.number()
    guard flags & 0x8000 != 0, flags & 0xF == 0 else { throw .notAnswer }
    let (questions, answers) = (try input.number(), try input.number())
    _ = (try input.number(), try input.number())
    for _ in 0..<questions {
      _ = try input.name()
      _ = (try input.number(), try input.number())
    }
    var found: [ServiceRecord] = []
    for _ in 0..<min(Int(answers), recordsMax) {
      _ = try input.name()
      let (kind, group) = (try input.number(), try input.number())
      _ = (try input.number(), try input.number())
      let length = Int(try input.number())
      let end = input.offset + length
      guard end <= bytes.count else { throw .truncated }
      if kind == service, group == internet {
        let priority = try input.number()
        _ = try input.number()
        let port = Int(try input.number())
        let host = try input.name()
        if !host.isEmpty { found.append(ServiceRecord(priority: priority, port: port, host: host)) }
      }
      input.offset = end
    }
    return found
  }

  private struct Input {
    let bytes: [UInt8]
    var offset = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func number() throws(Invalid) -> UInt16 {
      guard offset + 2 <= bytes.count else { throw .truncated }
      defer { offset += 2 }
      return UInt16(bytes[offset]) << 8 | UInt16(bytes[offset + 1])
    }

    /// A name may go on elsewhere in the message.
    mutating func name() throws(Invalid) -> String {
      var (at, jumps, labels) = (offset, 0, [String]())
      var hasJumped = false
      while true {
        guard at < bytes.count else { throw .truncated }
        let length = Int(bytes[at])
        if length & 0xC0 == 0xC0 {
          guard at + 1 < bytes.count else { throw .truncated }
          jumps += 1
          guard jumps <= jumpsMax else { throw .pointers }
          if !hasJumped { offset = at + 2 }
          hasJumped = true
          at = (length & 0x3F) << 8 | Int(bytes[at + 1])
          continue
        }
        guard length < 64, at + 1 + length <= bytes.count else { throw .truncated }
        at += 1
        if length == 0 { break }
        labels.append(String(decoding: bytes[at..<at + length], as: UTF8.self))
        at += length
        guard labels.count <= 128 else { throw .pointers }
      }
      if !hasJumped { offset = at }
      return labels.joined(separator: ".")
    }
  }
}

/// A numeric address, IPv4 or IPv6, with a port.
package struct StreamAddress: Hashable, Sendable, CustomStringConvertible {
  package let host: String
  package let port: Int

  package init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  package var description: String { HostAndPort(host: host, port: port).description }
}

/// As people write where something listens: `127.0.0.1:7001`, `[::1]:7001`, `node-1.cache:7001`.
package struct HostAndPort: Hashable, Sendable, CustomStringConvertible {
  package let host: String
  package let port: Int

  package init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  /// Nil when it is no such text. An IPv6 address stands in brackets, because its parts are separated as the port is.
  package init?(_ text: String) {
    let host: Substring
    let rest: Substring
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { return nil }
      host = text[text.index(after: text.startIndex)..<end]
      let after = text[text.index(after: end)...]
      guard after.hasPrefix(":"), host.contains(":") else { return nil }
      rest = after.dropFirst()
    } else {
      let parts = text.split(separator: ":", omittingEmptySubsequences: false)
      guard parts.count == 2 else { return nil }
      (host, rest) = (parts[0], parts[1])
    }
    guard let port = Int(rest), (0...65535).contains(port), (1...253).contains(host.utf8.count),
      rest.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
      host.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x2F })
    else { return nil }
    self.init(host: String(host), port: port)
  }

  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// A member of the fleet, as configured.
package struct PeerAddress: Sendable, Equatable {
  package let name: String
  package let host: String
  package let port: Int

  package init(name: String, host: String, port: Int) {
    self.name = name
    self.host = host
    self.port = port
  }
}

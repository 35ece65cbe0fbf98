package import RemoteG2Core

/// A member of the fleet, as configured.
package struct PeerAddress: Sendable, Equatable {
  package let name: PeerName
  package let host: String
  package let port: Int

  package init(name: PeerName, host: String, port: Int) {
    self.name = name
    self.host = host
    self.port = port
  }
}

internal import GRPCNIOTransportHTTP2Posix
internal import NIOCertificateReloading

/// A node's certificate for its control service, and what it judges others' by: the files that its streams use too.
package struct ControlCertificates: Equatable, Sendable {
  package var certificate: String
  package var key: String
  package var authority: String

  package init(certificate: String, key: String, authority: String) {
    self.certificate = certificate
    self.key = key
    self.authority = authority
  }

  /// Reads the files, and again every second when it runs.
  ///
  /// - Throws: When they are not a certificate and its key.
  func reloader() throws -> TimedCertificateReloader {
    try TimedCertificateReloader.makeReloaderValidatingSources(
      refreshInterval: .seconds(1),
      certificateSource: .init(location: .file(path: certificate), format: .pem),
      privateKeySource: .init(location: .file(path: key), format: .pem))
  }

  var trustRoots: TLSConfig.TrustRootsSource {
    .certificates([.file(path: authority, format: .pem)])
  }
}

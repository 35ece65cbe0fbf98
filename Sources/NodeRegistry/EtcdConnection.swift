internal import AsyncHTTPClient
internal import Foundation
internal import NIOSSL
internal import OSThreads

/// How a node knows its registry, and the registry the node: all by files, which are read again when they change.
package struct EtcdAccess: Sendable {
  /// Certificates in PEM of those who sign the registry's; nil: those whom this machine believes.
  package var authority: String?
  /// This node's own certificate and key in PEM, for a registry that wants one; both or neither.
  package var certificate: String?
  package var key: String?
  /// For a registry that asks for a password.
  package var user: String?
  package var passwordFile: String?

  package init() {}

  /// Whether the files can be used. A registry need not be there.
  package func check() throws(EtcdFailure) {
    do {
      _ = try Files(self).configuration(self)
      if let passwordFile { _ = try Self.read(passwordFile) }
    } catch {
      throw error as? EtcdFailure ?? EtcdFailure(description: "\(error)")
    }
  }

  /// What is in the file of the password, without the end of its line.
  func password() throws -> String? {
    try passwordFile.map {
      String(decoding: try Self.read($0), as: UTF8.self).trimmingCharacters(in: .newlines)
    }
  }

  fileprivate static func read(_ path: String) throws -> Data {
    do { return try Data(contentsOf: URL(fileURLWithPath: path)) } catch {
      throw EtcdFailure(description: "\(path) cannot be read: \(error.localizedDescription)")
    }
  }
}

package struct EtcdFailure: Error, CustomStringConvertible {
  package let description: String
}

/// What is in the files of certificates.
private struct Files: Equatable {
  let authority: Data?
  let certificate: Data?
  let key: Data?

  init(_ access: EtcdAccess) throws {
    authority = try access.authority.map(EtcdAccess.read)
    certificate = try access.certificate.map(EtcdAccess.read)
    key = try access.key.map(EtcdAccess.read)
  }

  func configuration(_ access: EtcdAccess) throws -> TLSConfiguration {
    var tls = TLSConfiguration.makeClientConfiguration()
    tls.minimumTLSVersion = .tlsv12
    if let authority {
      tls.trustRoots = .certificates(try certificates(authority, access.authority))
    }
    if let certificate, let key {
      tls.certificateChain = try certificates(certificate, access.certificate)
        .map { .certificate($0) }
      do {
        tls.privateKey = .privateKey(try NIOSSLPrivateKey(bytes: Array(key), format: .pem))
      } catch { throw EtcdFailure(description: "\(access.key ?? "") is no private key in PEM") }
    }
    return tls
  }

  private func certificates(_ data: Data, _ path: String?) throws -> [NIOSSLCertificate] {
    if let found = try? NIOSSLCertificate.fromPEMBytes(Array(data)), !found.isEmpty {
      return found
    }
    throw EtcdFailure(description: "\(path ?? "") holds no certificate in PEM")
  }
}

/// The connections to a registry, made anew when the files of its certificates change.
final class EtcdConnection: Sendable {
  private struct Open {
    let files: Files
    let http: HTTPClient
  }

  let access: EtcdAccess
  private let open = Guarded<Open?>(nil)

  init(_ access: EtcdAccess) { self.access = access }

  func http() async throws -> HTTPClient {
    let files = try Files(access)
    let (http, old) = try open.withLock { open in
      if let open, open.files == files { return (open.http, HTTPClient?.none) }
      var configuration = HTTPClient.Configuration()
      configuration.tlsConfiguration = try files.configuration(access)
      // What is wrong is told at once; the machine asks again.
      configuration.connectionPool.retryConnectionEstablishment = false
      let (http, old) = (HTTPClient(configuration: configuration), open?.http)
      open = Open(files: files, http: http)
      return (http, old)
    }
    // What is under way on it fails, and is asked again.
    try? await old?.shutdown()
    return http
  }

  /// What an operator can do about it.
  func words(_ error: any Error) -> String {
    let text = "\(error)"
    if text.contains("CERTIFICATE_VERIFY_FAILED") || text.contains("unableToValidateCertificate") {
      return
        "its certificate is not for that address, has ended, or is signed by nobody in "
        + (access.authority ?? "this machine's list (name them with --etcd-authority)")
    }
    if text.contains("BAD_CERTIFICATE") || text.contains("CERTIFICATE_REQUIRED")
      || text.contains("UNKNOWN_CA")
    {
      return access.certificate.map { "it does not believe \($0)" }
        ?? "it wants a certificate of this node's (--etcd-certificate)"
    }
    // It says why only to the connection, which is gone by then.
    if text.contains("remoteConnectionClosed"), access.certificate == nil, access.authority != nil {
      return
        "it ends the connection: if it wants a certificate of this node's, name it with --etcd-certificate"
    }
    return text
  }

  func close() async {
    let http = open.withLock { open in
      defer { open = nil }
      return open?.http
    }
    try? await http?.shutdown()
  }
}

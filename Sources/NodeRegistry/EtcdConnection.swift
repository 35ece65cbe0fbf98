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
      do { _ = try NIOSSLContext(configuration: tls) } catch {
        throw EtcdFailure(
          description: "\(access.key ?? "") is not the key of \(access.certificate ?? "")")
      }
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

/// The connections to a registry, made anew when the files of its certificates change. Files that cannot be used, or do
/// not fit each other yet, change nothing.
final class EtcdConnection: Sendable {
  private struct State {
    var open: (files: Files, http: HTTPClient)?
    /// What was last told of files that cannot be used.
    var told = ""
  }

  let access: EtcdAccess
  private let tell: @Sendable (String) -> Void
  private let state = Guarded(State())

  init(_ access: EtcdAccess, tell: @escaping @Sendable (String) -> Void) {
    self.access = access
    self.tell = tell
  }

  func http() throws -> HTTPClient {
    do {
      // In one piece: of two calls that found new files at once, one would end what the other has just begun to use.
      return try state.withLock { state in
        let files = try Files(access)
        if let open = state.open, open.files == files { return open.http }
        let made = HTTPClient(configuration: try configuration(files))
        let old = state.open?.http
        state = State(open: (files, made))
        // What is under way on it fails, and is asked again. Nobody waits for its end.
        if let old { Task { try? await old.shutdown() } }
        return made
      }
    } catch {
      guard let http = state.withLock({ $0.open?.http }) else { throw error }
      let isNew = state.withLock { state in
        defer { state.told = "\(error)" }
        return state.told != "\(error)"
      }
      if isNew { tell("the registry's files are not changed: \(error)") }
      return http
    }
  }

  private func configuration(_ files: Files) throws -> HTTPClient.Configuration {
    var configuration = HTTPClient.Configuration()
    configuration.tlsConfiguration = try files.configuration(access)
    // What is wrong is told at once; the machine asks again.
    configuration.connectionPool.retryConnectionEstablishment = false
    // A call that is given up takes its connection along, which may be dead.
    configuration.httpVersion = .http1Only
    // A password is sent to nobody who was not named.
    configuration.redirectConfiguration = .disallow
    return configuration
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

  /// Ends within that time, or goes on with it while nobody waits.
  func close(within limit: Duration) async {
    let http = state.withLock { state in
      defer { state.open = nil }
      return state.open?.http
    }
    guard let http else { return }
    let (ends, end) = AsyncStream<Void>.makeStream()
    Task {
      try? await http.shutdown()
      end.finish()
    }
    Task {
      try? await Task.sleep(for: limit)
      end.finish()
    }
    for await _ in ends {}
  }
}

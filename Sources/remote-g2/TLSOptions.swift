import ArgumentParser
import RemoteG2Control
import RemoteG2Core
import RemoteG2Node

/// A node's certificate, on the command line.
struct TLSOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      This node's certificate in PEM, with those of authorities between it and --tls-authority. One of its DNS names \
      is the node's name. With it, all that members say to each other is encrypted, and only members whose \
      certificate --tls-authority has signed are let in. The files are read again when they change.
      """, valueName: "file"))
  var tlsCertificate: String?
  @Option(help: ArgumentHelp("The certificate's private key in PEM.", valueName: "file"))
  var tlsKey: String?
  @Option(
    help: ArgumentHelp(
      "Certificates in PEM, of those who sign the members' certificates.", valueName: "file"))
  var tlsAuthority: String?
  @Option(
    help: ArgumentHelp(
      "Their lists of certificates that are believed no more, in PEM.", valueName: "file"))
  var tlsRevoked: String?

  /// Nil without a certificate. Ends the program when only some of what is needed is told.
  var files: TLSFiles? {
    let told = [
      ("--tls-certificate", tlsCertificate), ("--tls-key", tlsKey),
      ("--tls-authority", tlsAuthority),
    ]
    guard let certificate = tlsCertificate, let key = tlsKey, let authority = tlsAuthority else {
      let missing = told.filter { $0.1 == nil }.map(\.0)
      if missing.count < told.count {
        fail("\(missing.joined(separator: " and ")) is missing: the three belong together")
      }
      if tlsRevoked != nil { fail("--tls-revoked needs --tls-certificate and its fellows") }
      return nil
    }
    return TLSFiles(
      certificate: certificate, key: key, authority: authority, revoked: tlsRevoked)
  }

  /// The same for control services, which read them by a library of their own; that knows no lists of revoked ones.
  var ofControl: ControlCertificates? {
    guard tlsRevoked == nil else {
      fail(
        "--tls-revoked is not possible with --direct, nor for a worker: their control service cannot look at it, and "
          + "would let in whom the stream refuses")
    }
    return files.map {
      ControlCertificates(certificate: $0.certificate, key: $0.key, authority: $0.authority)
    }
  }

  /// For a tool, which speaks as whoever the certificate is of.
  var keeper: TLSKeeper? {
    guard let files else { return nil }
    do throws(TLSError) { return try TLSKeeper(files, name: nil) } catch { fail("\(error)") }
  }
}

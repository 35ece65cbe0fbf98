internal import Foundation
internal import Processes
package import RemoteG2Node

/// Makes certificates of every kind, good and bad, with the system's `openssl`.
package final class CertificateForge {
  package struct Failure: Error { package let words: String }

  /// A certificate with its key, in files.
  package struct Made: Sendable {
    package let name: String
    let folder: String
    package var certificate: String { "\(folder)/\(name).crt" }
    package var key: String { "\(folder)/\(name).key" }
  }

  /// When a certificate is valid.
  package struct Validity: Sendable {
    let start: String
    let end: String
    package static let now = Validity(start: "20200101000000Z", end: "20991231235959Z")
    package static let past = Validity(start: "20200101000000Z", end: "20210101000000Z")
    package static let future = Validity(start: "20980101000000Z", end: "20991231235959Z")
  }

  package static let member = """
    basicConstraints=critical,CA:FALSE
    keyUsage=critical,digitalSignature
    extendedKeyUsage=serverAuth,clientAuth
    """
  package static func named(_ name: String) -> String { "subjectAltName=DNS:\(name)\n\(member)" }
  package static let authority = """
    basicConstraints=critical,CA:TRUE
    keyUsage=critical,keyCertSign,cRLSign
    """

  package let folder: String

  package init() throws {
    folder = FileManager.default.temporaryDirectory.path + "/rg2tls-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try write("index", "")
    try write(
      "configuration",
      """
      [ca]
      default_ca=all
      [all]
      database=\(folder)/index
      new_certs_dir=\(folder)
      rand_serial=yes
      default_md=sha256
      unique_subject=no
      policy=any
      email_in_dn=no
      [any]
      commonName=optional
      [req]
      distinguished_name=nobody
      [nobody]
      """)
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  private func write(_ name: String, _ text: String) throws {
    try Data(text.utf8).write(to: URL(fileURLWithPath: "\(folder)/\(name)"))
  }

  @discardableResult
  package func openssl(_ arguments: [String]) throws -> String {
    let (status, output, errors) = try ChildProcess.run(
      OpenSSLPeer.program, arguments, timeout: .seconds(30))
    let text = output + errors
    guard status == 0 else {
      throw Failure(words: "openssl \(arguments.joined(separator: " ")): \(text)")
    }
    return text
  }

  /// - Parameters:
  ///   - subject: Its common name, if not what it is called here; empty: it has none.
  ///   - issuer: Nil: it signs itself.
  ///   - keyKind: As `openssl genpkey` has it.
  package func make(
    _ name: String, subject: String? = nil, _ extensions: String, by issuer: Made? = nil,
    _ validity: Validity = .now, digest: String = "sha256",
    keyKind: [String] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
  ) throws -> Made {
    let made = Made(name: name, folder: folder)
    try openssl(["genpkey"] + keyKind + ["-out", made.key])
    let configuration = "\(folder)/configuration"
    try openssl([
      "req", "-new", "-config", configuration, "-key", made.key, "-subj",
      subject == "" ? "/" : "/CN=\(subject ?? name)", "-out", "\(folder)/request",
    ])
    try write("extensions", extensions)
    try openssl(
      [
        "ca", "-batch", "-notext", "-config", configuration, "-in", "\(folder)/request", "-out",
        made.certificate, "-startdate", validity.start, "-enddate", validity.end, "-md", digest,
        "-extfile", "\(folder)/extensions", "-keyfile", issuer?.key ?? made.key,
      ] + (issuer.map { ["-cert", $0.certificate] } ?? ["-selfsign"]))
    return made
  }

  /// The certificate with those of the authorities that lead from it to one that is believed.
  package func chain(_ leaf: Made, _ others: [Made], as name: String) throws -> Made {
    let made = Made(name: name, folder: folder)
    try write("\(name).crt", try ([leaf] + others).map { try text($0.certificate) }.joined())
    try write("\(name).key", try text(leaf.key))
    return made
  }

  /// A file with the certificates of several authorities.
  package func bundle(_ authorities: [Made], as name: String) throws -> String {
    try write(name, try authorities.map { try text($0.certificate) }.joined())
    return "\(folder)/\(name)"
  }

  /// With one bit changed: of the signature, which is last, or of a piece of text.
  package func forge(_ good: Made, as name: String, changing old: String?) throws -> Made {
    let made = Made(name: name, folder: folder)
    try openssl(["x509", "-in", good.certificate, "-outform", "DER", "-out", "\(folder)/der"])
    var bytes = try Data(contentsOf: URL(fileURLWithPath: "\(folder)/der"))
    guard let place = old.map({ bytes.range(of: Data($0.utf8))?.lowerBound }) ?? bytes.count - 1
    else { throw Failure(words: "\(good.name) does not hold that text") }
    bytes[place] ^= 1
    try bytes.write(to: URL(fileURLWithPath: "\(folder)/der"))
    try openssl([
      "x509", "-inform", "DER", "-in", "\(folder)/der", "-out", made.certificate,
    ])
    try write("\(name).key", try text(good.key))
    return made
  }

  /// The list of what an authority believes no more; `expired`: it counts no more itself.
  package func revoke(_ made: Made?, by issuer: Made, as name: String, expired: Bool = false) throws
    -> String
  {
    let base = [
      "ca", "-config", "\(folder)/configuration", "-keyfile", issuer.key, "-cert",
      issuer.certificate,
    ]
    if let made { try openssl(base + ["-revoke", made.certificate]) }
    let times =
      expired
      ? ["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200201000000Z"]
      : ["-crldays", "30"]
    try openssl(base + ["-gencrl", "-out", "\(folder)/\(name)"] + times)
    return "\(folder)/\(name)"
  }

  /// What a node is started with.
  package func files(_ made: Made, authority: String, revoked: String? = nil) -> TLSFiles {
    TLSFiles(
      certificate: made.certificate, key: made.key, authority: authority, revoked: revoked)
  }

  package func text(_ path: String) throws -> String {
    try String(contentsOfFile: path, encoding: .utf8)
  }
}

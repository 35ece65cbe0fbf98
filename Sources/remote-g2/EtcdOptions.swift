import ArgumentParser
import NodeRegistry
import RemoteG2Core

/// The registry that members are found in, on the command line.
struct EtcdOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      Certificates in PEM of those who sign the certificate of an etcd at https://. Without it, those count that this \
      machine believes.
      """, valueName: "file"))
  var etcdAuthority: String?
  @Option(
    help: ArgumentHelp(
      "This node's certificate in PEM, for an etcd that asks for one.", valueName: "file"))
  var etcdCertificate: String?
  @Option(help: ArgumentHelp("The certificate's private key in PEM.", valueName: "file"))
  var etcdKey: String?
  @Option(help: "As whom an etcd is asked that wants a password.") var etcdUser: String?
  @Option(
    help: ArgumentHelp(
      "Where that password is. All these files are read again when they change.", valueName: "file")
  )
  var etcdPasswordFile: String?

  static let prefix = "etcd:"

  /// The registry that is named among the sources of members; nil: none. Ends the program when what is told of it
  /// cannot be.
  ///
  /// - Parameter isFirst: Otherwise the files were once right, and the node goes on though they are not now.
  func registry(among members: [String], insecure: Bool, isFirst: Bool) -> (
    endpoints: [String], access: EtcdAccess
  )? {
    let told = members.filter { $0.hasPrefix(Self.prefix) }
    guard told.count < 2 else { fail("--members \(told[1]): one registry is possible") }
    let access = access
    guard let text = told.first else {
      let flags = [
        ("--etcd-authority", etcdAuthority), ("--etcd-certificate", etcdCertificate),
        ("--etcd-user", etcdUser),
      ]
      if let flag = flags.first(where: { $0.1 != nil }) {
        fail("\(flag.0) is for a registry: name it with --members etcd:https://HOST:PORT")
      }
      return nil
    }
    let endpoints = text.dropFirst(Self.prefix.count)
      .split(separator: ",", omittingEmptySubsequences: false)
      .map { endpoint(String($0), of: text, insecure: insecure) }
    if isFirst { do { try access.check() } catch { fail("\(error)") } }
    return (endpoints, access)
  }

  private var access: EtcdAccess {
    for (one, other) in [
      (("--etcd-certificate", etcdCertificate), ("--etcd-key", etcdKey)),
      (("--etcd-user", etcdUser), ("--etcd-password-file", etcdPasswordFile)),
    ] where (one.1 == nil) != (other.1 == nil) {
      fail("\(one.1 == nil ? one.0 : other.0) is missing: \(one.0) and \(other.0) belong together")
    }
    var access = EtcdAccess()
    access.authority = etcdAuthority
    access.certificate = etcdCertificate
    access.key = etcdKey
    access.user = etcdUser
    access.passwordFile = etcdPasswordFile
    return access
  }

  private func endpoint(_ url: String, of text: String, insecure: Bool) -> String {
    let scheme = ["http://", "https://"].first { url.hasPrefix($0) }
    guard let scheme, let place = HostAndPort(String(url.dropFirst(scheme.count))), place.port > 0
    else { fail("--members \(text): \(url) is neither http://HOST:PORT nor https://HOST:PORT") }
    guard scheme == "http://" else { return url }
    for (flag, file) in [
      ("--etcd-authority", etcdAuthority), ("--etcd-certificate", etcdCertificate),
    ] where file != nil { fail("\(flag) is for an etcd at https://, and \(url) is not") }
    if etcdUser != nil, !TransportOptions.isLoopback(place.host), !insecure {
      fail(
        "\(url) would be sent the password of --etcd-user in the open: use https://, or add --insecure if every "
          + "machine on that network is trusted")
    }
    return url
  }
}

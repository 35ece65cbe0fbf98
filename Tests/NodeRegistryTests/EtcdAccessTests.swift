import Foundation
import NodeRegistry
import NodeTesting
import OSThreads
import RemoteG2Core
import Testing

/// A registry that does not let everybody in.
@Suite(.serialized) struct `A registry with certificates and passwords` {
  /// A node's part in it, without the node.
  final class Entry {
    let registry: EtcdRegistry
    let log = Guarded<[String]>([])
    let found = Guarded<[String]>([])

    init(_ name: PeerName, _ url: String, _ access: EtcdAccess) {
      registry = EtcdRegistry(
        .init(
          endpoints: [url], name: name, listen: "127.0.0.1:\(7000 + name.text.utf8.count)",
          access: access),
        limits: `Nodes in etcd`.limits,
        found: { [found] places in
          found.withLock { $0 = places.map(\.name.text).sorted() }
        }, log: { [log] line in log.withLock { $0.append(line) } })
    }

    func said(_ what: String) -> Bool { log.withLock { $0.contains { $0.contains(what) } } }
    var lines: [String] { log.withLock { $0 } }
    var others: [String] { found.withLock { $0 } }
  }

  private static let entered = "this node is in the registry"

  private static func write(_ text: String, _ path: String) throws {
    try Data(text.utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
  }

  @Test func `knows nodes by both, and they know it; files that change are read again`()
    async throws
  {
    let forge = try CertificateForge()
    let authority = try forge.make("authority", CertificateForge.authority)
    let stranger = try forge.make("stranger", CertificateForge.authority)
    let names = "subjectAltName=DNS:etcd,IP:127.0.0.1\n"
    let own = try forge.make("etcd", names + CertificateForge.member, by: authority)
    // Where it wants certificates and passwords, it refuses certificates that have a common name.
    let node = try forge.make(
      "node", subject: "", CertificateForge.named("node"), by: authority)
    let etcd = try Etcd()
    try etcd.askForPasswords(user: "fleet", password: "right", prefix: "/remote-g2/members/")
    try etcd.restart(with: .init(own: own, authority: authority))

    var access = EtcdAccess()
    access.authority = authority.certificate
    access.certificate = node.certificate
    access.key = node.key
    access.user = "fleet"
    access.passwordFile = "\(forge.folder)/password"
    try Self.write("right\n", access.passwordFile!)
    try access.check()
    let a = Entry("a", etcd.url, access)
    #expect(comes { a.said(Self.entered) }, "\(a.lines)")

    // Who lacks one of the three is told which, and is not seen.
    var (unsigned, distrusting, wrong) = (access, access, access)
    (unsigned.certificate, unsigned.key) = (nil, nil)
    distrusting.authority = stranger.certificate
    wrong.passwordFile = "\(forge.folder)/wrong"
    try Self.write("wrong", wrong.passwordFile!)
    let refused = [
      Entry("bb", etcd.url, unsigned), Entry("ccc", etcd.url, distrusting),
      Entry("dddd", etcd.url, wrong),
    ]
    #expect(comes { refused[0].said("--etcd-certificate") }, "\(refused[0].lines)")
    #expect(comes { refused[1].said("signed by nobody in") }, "\(refused[1].lines)")
    #expect(comes { refused[2].said("does not let the user fleet in") }, "\(refused[2].lines)")

    // The password becomes right, and so do the files of who distrusted it.
    try Self.write("right", wrong.passwordFile!)
    #expect(comes { refused[2].said(Self.entered) }, "\(refused[2].lines)")
    #expect(comes { a.others == ["dddd"] && refused[2].others == ["a"] })

    // It comes back without what it gave for passwords.
    try etcd.restart(with: .init(own: own, authority: authority))
    let late = Entry("eeeee", etcd.url, access)
    #expect(comes { late.others == ["a", "dddd"] && a.others == ["dddd", "eeeee"] }, "\(a.lines)")
    // Longer than a lease: all are let in again.
    let since = MonotonicClock.now()
    #expect(comes { MonotonicClock.now() - since > `Nodes in etcd`.limits.registryLease * 2 })
    #expect(a.others == ["dddd", "eeeee"] && late.others == ["a", "dddd"])

    // It is of another authority from now on.
    let other = try forge.make("other", names + CertificateForge.member, by: stranger)
    let guest = try forge.make(
      "guest", subject: "", CertificateForge.named("node"), by: stranger)
    try etcd.restart(with: .init(own: other, authority: stranger))
    #expect(comes { a.said("signed by nobody in") }, "\(a.lines)")
    a.log.withLock { $0 = [] }
    for (from, to) in [
      (stranger.certificate, access.authority!), (guest.certificate, access.certificate!),
      (guest.key, access.key!),
    ] { try Self.write(try forge.text(from), to) }
    #expect(comes { a.said(Self.entered) }, "\(a.lines)")
    for entry in refused + [a, late] { await entry.registry.stop() }
  }

  @Test func `is not begun with files that cannot be used`() throws {
    let forge = try CertificateForge()
    let authority = try forge.make("authority", CertificateForge.authority)
    func refusal(_ change: (inout EtcdAccess) -> Void) -> String {
      var access = EtcdAccess()
      change(&access)
      do { try access.check() } catch { return error.description }
      return "none"
    }
    #expect(
      refusal { $0.authority = "/nobody/has/this" }.hasPrefix("/nobody/has/this cannot be read"))
    #expect(refusal { $0.authority = authority.key }.hasSuffix("holds no certificate in PEM"))
    #expect(
      refusal {
        $0.certificate = authority.certificate
        $0.key = authority.certificate
      }.hasSuffix("is no private key in PEM"))
    let other = try forge.make("other", CertificateForge.named("other"), by: authority)
    #expect(
      refusal {
        $0.certificate = authority.certificate
        $0.key = other.key
      }.hasSuffix("other.key is not the key of \(authority.certificate)"))
    #expect(
      refusal {
        $0.user = "u"
        $0.passwordFile = "/nobody/has/this"
      }.hasPrefix("/nobody/has/this cannot be read"))
    #expect(refusal { $0.authority = authority.certificate } == "none")
  }
}

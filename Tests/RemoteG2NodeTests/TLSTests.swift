import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Library
import RemoteG2Node
import Testing

@Suite(.serialized) struct `Members with certificates` {
  static let keys = (0..<6).map { BlockKey(high: UInt64($0), low: 77) }
  static func content(_ place: Int) -> UInt64 { 0x7000 + UInt64(place) }

  /// A fleet's authority, and a node `a` with blocks.
  struct Fleet {
    let forge: CertificateForge
    let authority: CertificateForge.Made
    var believed: String { authority.certificate }

    init() throws {
      forge = try CertificateForge()
      authority = try forge.make("authority", CertificateForge.authority)
    }

    func member(_ name: String) throws -> CertificateForge.Made {
      try forge.make(name, CertificateForge.named(name), by: authority)
    }

    func files(_ name: String) throws -> TLSFiles {
      forge.files(try member(name), authority: believed)
    }
  }

  @Test func `a prefix is pulled byte by byte over an encrypted stream`() throws {
    let fleet = try Fleet()
    let a = try TestNode("a", tls: fleet.files("a"))
    let b = try TestNode("b", members: [a.member], tls: fleet.files("b"))
    defer {
      b.stop()
      a.stop()
    }
    let (first, second) = (try NodeEngine(a.socket), try NodeEngine(b.socket))
    #expect(first.comes { first.engine.isAttached } && second.comes { second.engine.isAttached })
    first.step()
    second.step()
    first.save(Self.keys, Self.content)
    #expect(comes { b.report.members.first?.keys == 6 }, "\(b.log.withLock { $0 })")
    // Twice, so that the second goes over a connection that there is.
    for round in 0..<2 {
      let keys = Self.keys[3 * round..<3 * round + 3]
      #expect(second.load(Self.keys[..<(3 * round + 3)].map { $0 }, into: 3) == 3 * round + 3)
      #expect(
        keys.indices.map { second.content(3 + $0) } == keys.indices.map(Self.content), "\(round)")
    }
    #expect(b.report.blocksPulled == 6 && b.report.handshakeRefusals.isEmpty)
    #expect((b.report.certificateEnd ?? 0) > 2_000_000_000)
    #expect(comes { a.held == 0 && b.held == 0 })
  }

  @Test func `what is on the wire is encrypted`() throws {
    let fleet = try Fleet()
    let a = try TestNode("a", tls: fleet.files("a"))
    defer { a.stop() }
    // Whoever says it in the open hears nothing of a stream.
    let reader = try #require(RawReader(a.node.port))
    reader.say(.hello(StreamHello(node: Incarnation(high: 1, low: 1), name: "b", terms: nil)))
    #expect(reader.message() == nil)
    #expect(comes { a.report.handshakeRefusals == ["no_tls": 1] })
    #expect(a.log.withLock { $0.contains { $0.contains("speaks no TLS") } })
  }

  @Test
  func `certificates are replaced while nodes run, and one that does not fit changes nothing`()
    throws
  {
    let fleet = try Fleet()
    let files = try fleet.files("a")
    let a = try TestNode("a", tls: files)
    defer { a.stop() }
    let keeper = try TLSKeeper(fleet.files("b"), name: "b")
    _ = try MemberProbe.look(at: a.member.address, as: "a", keeper: keeper, own: nil)
    // Half a change: the new certificate with the old key.
    let key = try Data(contentsOf: URL(fileURLWithPath: files.key))
    let next = try fleet.forge.make(
      "next", subject: "a", CertificateForge.named("a") + "\nsubjectKeyIdentifier=hash",
      by: fleet.authority)
    try Data(contentsOf: URL(fileURLWithPath: next.certificate)).write(
      to: URL(fileURLWithPath: files.certificate))
    #expect(
      comes {
        _ = try? MemberProbe.look(at: a.member.address, as: "a", keeper: keeper, own: nil)
        return a.log.withLock { $0.contains { $0.contains("the certificate in use stays") } }
      })
    _ = try MemberProbe.look(at: a.member.address, as: "a", keeper: keeper, own: nil)
    // The other half.
    try Data(contentsOf: URL(fileURLWithPath: next.key)).write(to: URL(fileURLWithPath: files.key))
    #expect(try Data(contentsOf: URL(fileURLWithPath: files.key)) != key)
    #expect(
      comes {
        _ = try? MemberProbe.look(at: a.member.address, as: "a", keeper: keeper, own: nil)
        return a.log.withLock { $0.contains { $0.contains("new connections use it") } }
      })
    let shown = try fleet.forge.openssl([
      "s_client", "-connect", "127.0.0.1:\(a.node.port)", "-cert", fleet.member("c").certificate,
      "-key", fleet.member("c").key, "-CAfile", fleet.believed, "-brief",
    ])
    #expect(shown.contains("Peer certificate: CN = a"), "\(shown)")
    _ = try MemberProbe.look(at: a.member.address, as: "a", keeper: keeper, own: nil)
  }

  @Test func `a fleet goes over to another authority while its nodes run`() throws {
    let fleet = try Fleet()
    let other = try fleet.forge.make("other", CertificateForge.authority)
    // First both are believed, then certificates of the new one are shown.
    let both = try fleet.forge.bundle([fleet.authority, other], as: "both")
    let old = try fleet.member("a")
    let a = try TestNode("a", tls: fleet.forge.files(old, authority: both))
    defer { a.stop() }
    let new = try fleet.forge.make("b", CertificateForge.named("b"), by: other)
    let keeper = try TLSKeeper(fleet.forge.files(new, authority: both), name: "b")
    let finding = try MemberProbe.look(at: a.member.address, as: "a", keeper: keeper, own: nil)
    #expect(finding.name == "a")
  }

  @Test func `a node does not start with files that no node can use`() throws {
    let fleet = try Fleet()
    let good = try fleet.files("a")
    func refusal(_ change: (inout TLSFiles) -> Void) -> String {
      var files = good
      change(&files)
      do {
        try TestNode("a", tls: files).stop()
        return "started"
      } catch { return "\(error)" }
    }
    let folder = fleet.forge.folder
    #expect(refusal { $0.certificate = "\(folder)/none" }.contains("No such file"))
    #expect(refusal { $0.key = "\(folder)/none" }.contains("No such file"))
    #expect(refusal { $0.authority = "\(folder)/none" }.contains("holds no authority"))
    #expect(refusal { $0.authority = good.key }.contains("holds no authority"))
    #expect(refusal { $0.revoked = good.key }.contains("no list of revoked"))
    #expect(refusal { $0.certificate = good.key }.contains("is no certificate in PEM"))
    let other = try fleet.member("c")
    #expect(refusal { $0.key = other.key }.contains("is not this certificate's private key"))
    #expect(
      refusal {
        $0.certificate = other.certificate
        $0.key = other.key
      }.contains("is a certificate of c, not of a"))
    try fleet.forge.openssl([
      "pkey", "-in", good.key, "-aes256", "-passout", "pass:x", "-out", "\(folder)/locked",
    ])
    #expect(refusal { $0.key = "\(folder)/locked" }.contains("without a password"))
  }

  @Test func `a member that is not there yet refuses nobody`() throws {
    let fleet = try Fleet()
    let files = try fleet.files("b")
    let first = try TestNode("b", tls: files)
    let place = first.member
    first.node.stop()
    // Who knocks at a port where nobody listens is told just that.
    let own = try fleet.files("a")
    let keeper = try TLSKeeper(own, name: "a")
    #expect(throws: MemberProbe.Failure.unreachable) {
      try MemberProbe.look(at: place.address, as: "b", keeper: keeper, own: nil)
    }
    let a = try TestNode("a", members: [place], tls: own)
    var configuration = first.configuration
    configuration.address = place.address
    let second = try Node(configuration)
    defer {
      a.stop()
      second.stop()
      first.stop()
    }
    #expect(comes { a.report.members.first?.standing == "connected" })
    #expect(a.report.handshakeRefusals.isEmpty)
    #expect(a.log.withLock { $0 } == ["b is connected"])
  }

  @Test func `a node with a certificate and one without do not share, and both say why`() throws {
    let fleet = try Fleet()
    let a = try TestNode("a", tls: fleet.files("a"))
    let b = try TestNode("b", members: [a.member])
    let c = try TestNode("c", members: [b.member], tls: fleet.files("c"))
    defer {
      for node in [c, b, a] { node.stop() }
    }
    #expect(comes { b.log.withLock { $0.contains { $0.contains("--tls-certificate") } } })
    #expect(comes { c.log.withLock { $0.contains { $0.contains("--tls-certificate") } } })
    #expect(comes { a.report.handshakeRefusals["no_tls", default: 0] > 0 })
    #expect(b.report.members.first?.standing != "connected")
    #expect(c.report.members.first?.standing != "connected")
  }
}

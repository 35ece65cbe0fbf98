import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node
import Testing

/// Certificates that must not enter, each shown to a node by the system's `openssl`, as somebody who says that it is
/// member b.
@Suite(.serialized) struct `Strangers` {
  typealias Forge = CertificateForge
  typealias Made = CertificateForge.Made

  struct Kind: CustomStringConvertible, Sendable {
    let description: String
    /// What the node counts it as; nil: the handshake is over when it is refused by name.
    let counted: HandshakeRefusal.Kind?
    /// What it shows; nil: nothing.
    let show: @Sendable (Fleet) throws -> Made?
    let arguments: [String]

    init(
      _ description: String, _ counted: HandshakeRefusal.Kind?, _ arguments: [String] = [],
      _ show: @escaping @Sendable (Fleet) throws -> Made?
    ) {
      self.description = description
      self.counted = counted
      self.arguments = arguments
      self.show = show
    }
  }

  struct Fleet {
    let forge: Forge
    let authority: Made
    /// Believed once.
    let former: Made
    let believed: String

    init() throws {
      forge = try Forge()
      authority = try forge.make("authority", Forge.authority)
      former = try forge.make("former", Forge.authority, .past)
      believed = try forge.bundle([authority, former], as: "believed")
    }

    func leaf(_ extensions: String, by issuer: Made? = nil, _ validity: Forge.Validity = .now)
      throws -> Made
    { try forge.make("b", extensions, by: issuer ?? authority, validity) }

    func alternative(_ name: String) throws -> Made {
      try leaf("subjectAltName=\(name)\n\(Forge.member)")
    }

    /// A certificate of b that an authority between signed.
    func through(_ extensions: String, _ validity: Forge.Validity = .now) throws -> Made {
      let between = try forge.make("between", extensions, by: authority, validity)
      let leaf = try forge.make("leaf", Forge.named("b"), by: between)
      return try forge.chain(leaf, [between], as: "b")
    }
  }

  static let good = Forge.named("b")
  static let rsa = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]

  static let kinds: [Kind] = [
    Kind("no certificate", .noCertificate) { _ in nil },
    Kind("signed by itself", .unknownAuthority) { try $0.forge.make("b", good) },
    Kind("by a stranger", .unknownAuthority) {
      try $0.leaf(good, by: $0.forge.make("stranger", Forge.authority))
    },
    Kind("by a stranger of the authority's name", .unknownAuthority) {
      let other = try $0.forge.make("other", subject: "authority", Forge.authority)
      return try $0.leaf(good, by: other)
    },
    Kind("by a stranger who shows his own certificate too", .unknownAuthority) {
      let other = try $0.forge.make("other", Forge.authority)
      return try $0.forge.chain($0.leaf(good, by: other), [other], as: "chain")
    },
    Kind("by a former authority", .expired) { try $0.leaf(good, by: $0.former) },
    Kind("expired", .expired) { try $0.leaf(good, .past) },
    Kind("not valid yet", .notYetValid) { try $0.leaf(good, .future) },
    Kind("of another member", nil) { try $0.leaf(Forge.named("c")) },
    Kind("of the node itself", nil) { try $0.leaf(Forge.named("a")) },
    Kind("of no name, but its subject is b", nil) { try $0.leaf(Forge.member) },
    Kind("of every name", nil) { try $0.alternative("DNS:*") },
    Kind("of every name below b", nil) { try $0.alternative("DNS:*.b") },
    Kind("of a name that begins with b", nil) { try $0.alternative("DNS:b.example") },
    Kind("of a name that ends with b", nil) { try $0.alternative("DNS:x-b") },
    Kind("of B", nil) { try $0.alternative("DNS:B") },
    Kind("of b with a dot", nil) { try $0.alternative("DNS:b.") },
    Kind("of b and a space", nil) { try $0.alternative("DER:30:04:82:02:62:20") },
    Kind("of b and a zero byte", nil) { try $0.alternative("DER:30:06:82:04:62:00:2e:78") },
    Kind("of the empty name", nil) { try $0.alternative("DER:30:02:82:00") },
    Kind("of a mailbox b", nil) { try $0.alternative("email:b@b") },
    Kind("of a place b", nil) { try $0.alternative("URI:b") },
    Kind("of an address", nil) { try $0.alternative("IP:127.0.0.1") },
    Kind("for servers alone", .badCertificate) {
      try $0.leaf(
        "subjectAltName=DNS:b\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth")
    },
    Kind("for signing programs", .badCertificate) {
      try $0.leaf(
        "subjectAltName=DNS:b\nbasicConstraints=CA:FALSE\nextendedKeyUsage=codeSigning")
    },
    Kind("for encrypting keys", .badCertificate) {
      try $0.leaf(
        "subjectAltName=DNS:b\nbasicConstraints=CA:FALSE\nkeyUsage=critical,keyEncipherment")
    },
    Kind("with a demand that nobody knows", .badCertificate) {
      try $0.leaf("1.2.3.4=critical,ASN1:NULL\n\(good)")
    },
    Kind("by another member", .badCertificate) {
      let member = try $0.forge.make("c", Forge.named("c"), by: $0.authority)
      return try $0.forge.chain($0.leaf(good, by: member), [member], as: "chain")
    },
    Kind("by one who may sign nothing", .badCertificate) {
      try $0.through("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature")
    },
    Kind("by an authority between that is not shown", .unknownAuthority) {
      let between = try $0.forge.make("between", Forge.authority, by: $0.authority)
      return try $0.leaf(good, by: between)
    },
    Kind("by an authority between that has expired", .expired) {
      try $0.through(Forge.authority, .past)
    },
    Kind("by an authority between for other names", .badCertificate) {
      try $0.through("\(Forge.authority)\nnameConstraints=critical,permitted;DNS:c")
    },
    Kind("by an authority between that may have none below it", .badCertificate) {
      let first = try $0.forge.make(
        "first", "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign",
        by: $0.authority)
      let second = try $0.forge.make("second", Forge.authority, by: first)
      return try $0.forge.chain($0.leaf(good, by: second), [second, first], as: "chain")
    },
    Kind("of a key of 1,024 bits", .badCertificate, ["-cipher", "DEFAULT@SECLEVEL=0"]) {
      try $0.forge.make(
        "b", good, by: $0.authority,
        keyKind: ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"])
    },
    Kind("signed by way of SHA-1", .badCertificate, ["-cipher", "DEFAULT@SECLEVEL=0"]) {
      try $0.forge.make("b", good, by: $0.authority, digest: "sha1")
    },
    Kind("signed by way of SHA-1, and of RSA", .badCertificate, ["-cipher", "DEFAULT@SECLEVEL=0"]) {
      let other = try $0.forge.make("rsa", Forge.authority, by: $0.authority, keyKind: rsa)
      return try $0.forge.chain(
        $0.forge.make("b", good, by: other, digest: "sha1"), [other], as: "chain")
    },
    Kind("with another signature", .badCertificate) {
      try $0.forge.forge($0.leaf(good), as: "forged", changing: nil)
    },
    Kind("with another name written in", .badCertificate) {
      try $0.forge.forge($0.leaf(Forge.named("member-c")), as: "forged", changing: "member-c")
    },
    Kind("of the authority itself", .badCertificate) { $0.authority },
    Kind("of an old form without extensions", nil) { try $0.leaf("") },
    Kind("right, by TLS 1.2", .noTLS, ["-tls1_2"]) { try $0.leaf(good) },
  ]

  static var hello: [UInt8] {
    StreamCodec.encode(
      .hello(StreamHello(node: Incarnation(high: 4, low: 4), name: "b", terms: nil)))
      + StreamCodec.encode(.watch)
  }

  /// What a node says to b, which shows this.
  static func heard(_ fleet: Fleet, _ shown: Made?, _ more: [String], from node: TestNode) throws
    -> StreamMessage?
  {
    let certificate =
      shown.map { ["-cert", $0.certificate, "-cert_chain", $0.certificate, "-key", $0.key] } ?? []
    let heard = try OpenSSLPeer.connect(
      to: node.node.port, saying: hello, certificate + ["-CAfile", fleet.believed] + more)
    return OpenSSLPeer.first(of: heard)
  }

  @Test func `a certificate as it should be enters`() throws {
    let fleet = try Fleet()
    let a = try fleet.node()
    defer { a.stop() }
    for shown in [try fleet.leaf(Self.good), try fleet.through(Forge.authority)] {
      guard case .welcome(let welcome)? = try Self.heard(fleet, shown, [], from: a) else {
        Issue.record("it is not welcome: \(a.report.handshakeRefusals)")
        continue
      }
      #expect(welcome.name == "a")
    }
    #expect(a.report.handshakeRefusals.isEmpty)
  }

  @Test(arguments: kinds.indices) func `no other certificate enters`(_ place: Int) throws {
    let kind = Self.kinds[place]
    let fleet = try Fleet()
    let shown = try kind.show(fleet)
    let a = try fleet.node()
    defer { a.stop() }
    let answer = try Self.heard(fleet, shown, kind.arguments, from: a)
    if case .welcome? = answer { Issue.record("\(kind) has entered") }
    let refusals = a.report.handshakeRefusals
    if let counted = kind.counted {
      #expect(refusals == [counted.rawValue: 1], "\(kind): \(a.log.withLock { $0 })")
      #expect(answer == nil, "\(kind)")
      #expect(a.log.withLock { $0.count } == 1, "\(kind)")
    } else {
      guard case .refused(let reason)? = answer else {
        Issue.record("\(kind): \(String(describing: answer)), \(refusals)")
        return
      }
      #expect(reason.contains("it says that it is b"), "\(kind)")
    }
    #expect(comes { a.held == 0 })
  }

  @Test func `a revoked certificate does not enter, nor any by an authority without a list`() throws
  {
    let fleet = try Fleet()
    let (good, bad) = (
      try fleet.leaf(Self.good), try fleet.forge.make("old", Self.good, by: fleet.authority)
    )
    let list = try fleet.forge.revoke(bad, by: fleet.authority, as: "revoked")
    let a = try fleet.node(revoked: list)
    defer { a.stop() }
    guard case .welcome? = try Self.heard(fleet, good, [], from: a) else {
      Issue.record("a certificate that is not revoked is not welcome")
      return
    }
    #expect(try Self.heard(fleet, bad, [], from: a) == nil)
    #expect(a.report.handshakeRefusals == ["revoked": 1])
    #expect(try Self.heard(fleet, fleet.through(Forge.authority), [], from: a) == nil)
    #expect(a.report.handshakeRefusals == ["revoked": 1, "bad_certificate": 1])
    let late = try fleet.forge.revoke(nil, by: fleet.authority, as: "late", expired: true)
    let c = try fleet.node(revoked: late)
    defer { c.stop() }
    #expect(try Self.heard(fleet, good, [], from: c) == nil)
    #expect(c.report.handshakeRefusals == ["bad_certificate": 1])
  }

  @Test func `there are forty kinds`() { #expect(Self.kinds.count >= 40) }
}

extension `Strangers`.Fleet {
  func node(revoked: String? = nil) throws -> TestNode {
    let own = try forge.make("a", CertificateForge.named("a"), by: authority)
    return try TestNode(
      "a", tls: forge.files(own, authority: believed, revoked: revoked))
  }
}

/// The same the other way round: what a node makes of a listener that shows one of them where a member should be.
@Suite(.serialized) struct `Impostors` {
  static let kinds:
    [(HandshakeRefusal.Kind, @Sendable (`Strangers`.Fleet) throws -> CertificateForge.Made)] = [
      (.unknownAuthority, { try $0.forge.make("b", `Strangers`.good) }),
      (
        .unknownAuthority,
        { try $0.leaf(`Strangers`.good, by: $0.forge.make("x", CertificateForge.authority)) }
      ),
      (.expired, { try $0.leaf(`Strangers`.good, .past) }),
      (.notYetValid, { try $0.leaf(`Strangers`.good, .future) }),
      (.wrongName, { try $0.leaf(CertificateForge.named("c")) }),
      (.wrongName, { try $0.leaf(CertificateForge.member) }),
      (.wrongName, { try $0.alternative("DNS:*") }),
      (.wrongName, { try $0.alternative("DNS:B") }),
      (.wrongName, { try $0.alternative("DER:30:06:82:04:62:00:2e:78") }),
      (
        .badCertificate,
        {
          try $0.leaf(
            "subjectAltName=DNS:b\nbasicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth")
        }
      ),
    ]

  @Test(arguments: kinds.indices) func `a node asks no listener that cannot prove its name`(
    _ place: Int
  ) throws {
    let (counted, show) = Self.kinds[place]
    let fleet = try `Strangers`.Fleet()
    let shown = try show(fleet)
    let listener = try OpenSSLListener([
      "-cert", shown.certificate, "-key", shown.key, "-CAfile", fleet.believed, "-Verify", "1",
    ])
    defer { listener.stop() }
    let own = try fleet.forge.make("a", CertificateForge.named("a"), by: fleet.authority)
    let a = try TestNode(
      "a", members: [("b", StreamAddress(host: "127.0.0.1", port: listener.port))],
      tls: fleet.forge.files(own, authority: fleet.believed))
    defer { a.stop() }
    #expect(comes { a.report.handshakeRefusals[counted.rawValue, default: 0] > 0 })
    #expect(a.report.handshakeRefusals.keys.sorted() == [counted.rawValue])
    #expect(comes { a.log.withLock { $0.contains { $0.hasPrefix("b is away: its certificate") } } })
    #expect(a.report.members.first?.standing.hasPrefix("refused") == true)
  }
}

import RemoteG2Core
import Testing

@Suite struct `A handshake` {
  static func at(_ seconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(seconds) * 1_000_000_000)
  }

  static let refusals: [HandshakeRefusal] = [
    .notBelieved(.missing, name: ""), .notBelieved(.expired, name: "b"),
    .notBelieved(.notYetValid, name: "b"), .notBelieved(.unknownAuthority, name: "b"),
    .notBelieved(.revoked, name: "b"), .notBelieved(.wrongName, name: "c"),
    .notBelieved(.other("CA md too weak"), name: "b"), .refused("tlsv1 alert unknown ca"),
    .senseless("wrong version number"), .ended,
  ]

  @Test func `that is refused is counted by its kind, and told by what to do`() {
    #expect(Set(Self.refusals.map(\.kind)).count == HandshakeRefusal.Kind.allCases.count)
    for refusal in Self.refusals {
      if case .notBelieved(let doubt, let name) = refusal, doubt != .missing {
        #expect(refusal.description.contains("(\"\(name)\")"))
      }
      #expect(!refusal.description.isEmpty && !refusal.description.contains("  "))
    }
    #expect(
      HandshakeRefusal.notBelieved(.expired, name: "b").description
        == "its certificate (\"b\") has expired: give it a new one; a running node reads its files again"
    )
  }

  @Test func `of strangers is told once a minute for each reason, and counted always`() {
    var log = HandshakeLog()
    // Another reason is told for itself.
    let told = [
      (HandshakeRefusal.ended, 0), (.ended, 59), (.notBelieved(.expired, name: "b"), 59),
      (.ended, 60),
    ].map { log.note($0, limits: Limits(), at: Self.at($1)) }
    #expect(told == [true, false, true, true])
    #expect(log.refusals == [.noTLS: 3, .expired: 1])
  }

  /// What a node says to a member that says that it is b.
  static func answer(to names: [String]?) throws -> StreamMessage? {
    var core = NodeCore(
      node: Incarnation(high: 1, low: 1), name: "a", members: ["b"], memoryBytes: 1 << 20,
      limits: Limits())
    var machine = ServeMachine(limits: Limits(), at: at(0))
    let hello = StreamHello(node: Incarnation(high: 8, low: 8), name: "b", terms: nil)
    var bytes = StreamCodec.encode(.hello(hello))[...]
    while !bytes.isEmpty, let wanted = machine.wanted {
      let piece = Array(bytes.prefix(wanted))
      bytes = bytes.dropFirst(piece.count)
      let isSound = piece.withUnsafeBytes { machine.took($0, from: names, &core) }
      #expect(isSound)
    }
    return try `A stream between two nodes`.messages(&machine.outgoing).first
  }

  @Test(arguments: [nil, ["b"], ["x", "b"]]) func `lets a member in by a name that it proved`(
    _ names: [String]?
  ) throws {
    guard case .welcome? = try Self.answer(to: names) else {
      Issue.record("\(String(describing: names)) is not welcome")
      return
    }
  }

  @Test(arguments: [[], ["c"], ["B"], ["b."], ["b "], ["bb"], [""]])
  func `lets nobody in by another's name`(_ names: [String]) throws {
    let whose = names.isEmpty ? "no DNS name" : names[0]
    #expect(
      try Self.answer(to: names)
        == .refused("it says that it is b, and its certificate is of \(whose)"))
  }

  @Test func `with one who speaks TLS to a node that does not is told apart from nonsense`() {
    for (bytes, isTLS) in [
      ([0x16, 3, 1, 2] as [UInt8], true), ([0x15, 3, 3, 0], true),
      ([0x47, 0x45, 0x54, 0x20], false),
    ] {
      do {
        _ = try bytes.withUnsafeBytes { try StreamCodec.length($0) }
        Issue.record("\(bytes) is no length")
      } catch { #expect("\(error)".contains("TLS") == isTLS) }
    }
    // A frame's length that begins like one is a length.
    let length = [0x15, 3, 0, 0] as [UInt8]
    #expect(try! length.withUnsafeBytes { try StreamCodec.length($0) } == 0x315)
  }

  @Test func `that a member ends without a word is told, and its silence is not`() {
    var (machine, core) = `A stream between two nodes`.watch()
    _ = machine.timePassed(&core, at: Self.at(0))
    machine.outgoing.took(machine.outgoing.count)
    let orders = machine.ended(nil, &core, at: Self.at(1))
    #expect(
      orders == [
        .tell(
          "b ends connections before it says who it is: start all nodes with --tls-certificate, or none"
        ), .close,
      ])
    // One that says nothing at all may be stopped.
    _ = machine.timePassed(&core, at: Self.at(2))
    machine.outgoing.took(machine.outgoing.count)
    #expect(machine.timePassed(&core, at: Self.at(10)) == [.close])
  }
}

import RemoteG2Core
import Testing

@Suite struct `Who the members are` {
  typealias Place = Membership.Place

  static func address(_ last: Int) -> StreamAddress {
    StreamAddress(host: "10.0.0.\(last)", port: 7002)
  }
  static func named(_ name: PeerName, _ last: Int) -> Place {
    Place(name: name, address: address(last))
  }

  @Test func `is told by what has joined and what has left`() {
    var members = Membership(own: "a", limits: Limits())
    var told = members.found([Self.named("c", 3), Self.named("b", 2)], by: .told)
    #expect(told.changes == [.joined(Self.named("b", 2)), .joined(Self.named("c", 3))])
    told = members.found([Self.named("b", 2)], by: .told)
    #expect(told.changes == [.left("c")] && told.complaints.isEmpty)
    #expect(members.found([Self.named("b", 2)], by: .told).changes == [])
    // One that has moved leaves and joins.
    told = members.found([Self.named("b", 9)], by: .told)
    #expect(told.changes == [.left("b"), .joined(Self.named("b", 9))])
  }

  @Test func `is put together from all who say something of it, each for itself`() {
    var members = Membership(own: "a", limits: Limits())
    _ = members.found([Self.named("b", 2)], by: .told)
    _ = members.found([Self.named("c", 3)], by: .registry)
    _ = members.found([Place(at: Self.address(4))], by: .service)
    #expect(members.places.keys.sorted() == ["10.0.0.4:7002", "b", "c"])
    _ = members.found([], by: .registry)
    #expect(members.places.keys.sorted() == ["10.0.0.4:7002", "b"])
  }

  @Test func `never counts the node itself, nor one that is known by its name twice`() {
    var members = Membership(own: "a", limits: Limits())
    _ = members.found([Self.named("a", 1), Self.named("b", 2)], by: .registry)
    let told = members.found(
      [Place(at: Self.address(2)), Place(at: Self.address(3))], by: .service)
    #expect(told.changes == [.joined(Place(at: Self.address(3)))] && told.complaints.isEmpty)
    #expect(members.places.keys.sorted() == ["10.0.0.3:7002", "b"])
  }

  @Test func `what contradicts itself is said once, and the first counts`() {
    var members = Membership(own: "a", limits: Limits())
    _ = members.found([Self.named("b", 2)], by: .told)
    var told = members.found([Self.named("b", 5), Self.named("c", 2)], by: .registry)
    #expect(told.changes.isEmpty)
    #expect(
      told.complaints == [
        "b and c are said to be at 10.0.0.2:7002",
        "b is said to be at 10.0.0.2:7002 and at 10.0.0.5:7002",
      ])
    told = members.found([Self.named("b", 5), Self.named("c", 2)], by: .registry)
    #expect(told.complaints.isEmpty)
    // Mended, and wrong again.
    #expect(members.found([], by: .registry).complaints == [])
    #expect(members.found([Self.named("c", 2)], by: .registry).complaints.count == 1)
  }

  @Test func `has a limit`() {
    let limits = Limits()
    var members = Membership(own: "a", limits: limits)
    let told = members.found(
      (0..<limits.peersMax + 2).map { Place(at: StreamAddress(host: "10.0.1.\($0)", port: 2)) },
      by: .service)
    #expect(members.places.count == limits.peersMax && told.complaints.count == 2)
  }

  // MARK: Texts

  @Test func `a host and a port are read as they are written`() {
    for (text, host, port) in [
      ("127.0.0.1:7001", "127.0.0.1", 7001), ("[::1]:7001", "::1", 7001),
      ("node-0.cache:1", "node-0.cache", 1), ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ] {
      let place = HostAndPort(text)
      #expect(place?.host == host && place?.port == port)
      #expect(place?.description == text)
    }
    for text in [
      "", ":", "a", "a:", ":1", "a:b", "a:65536", "a:-1", "::1:7001", "[::1]", "[::1]7001", "[a]:1",
      "a b:1", "a/b:1", "[::1", "a:+1", String(repeating: "a", count: 254) + ":1",
    ] { #expect(HostAndPort(text) == nil, "\(text)") }
  }

  @Test func `what finds members out is one of two things`() {
    #expect(
      MemberLookup.Question("dns:cache:7001")
        == .addresses(HostAndPort(host: "cache", port: 7001)))
    #expect(MemberLookup.Question("srv:_g2._tcp.cache") == .records("_g2._tcp.cache"))
    for text in ["", "dns:", "dns:cache", "dns:cache:0", "srv:", "srv:a b", "srv:a:1", "etc:a:1"] {
      #expect(MemberLookup.Question(text) == nil, "\(text)")
    }
  }

  // MARK: Looking up

  @Test func `a member keeps the address that it has for as long as its host has it`() {
    var lookup = MemberLookup(
      [.member("b", HostAndPort(host: "h", port: 7001))], fixed: [Self.named("c", 3)])
    func b(_ last: Int) -> Place { Self.named("b", last) }
    lookup.ask(addresses: { _ in ["10.0.0.7", "10.0.0.8"] }, records: { _ in nil })
    #expect(lookup.told == [Self.named("c", 3), b(7)])
    lookup.ask(addresses: { _ in ["10.0.0.8", "10.0.0.7"] }, records: { _ in nil })
    #expect(lookup.told.last == b(7))
    // Nobody can be asked.
    lookup.ask(addresses: { _ in nil }, records: { _ in nil })
    #expect(lookup.told.last == b(7))
    lookup.ask(addresses: { _ in ["10.0.0.8"] }, records: { _ in nil })
    #expect(lookup.told.last == b(8))
    lookup.ask(addresses: { _ in [] }, records: { _ in nil })
    #expect(lookup.told == [Self.named("c", 3)] && lookup.ofServices.isEmpty)
  }

  @Test func `a service is its addresses, or its records' hosts by their first name`() {
    var lookup = MemberLookup(
      [.addresses(HostAndPort(host: "all", port: 7001)), .records("s")], fixed: [])
    let hosts = ["all": ["10.0.0.1", "::5"], "n0.all.x": ["10.0.0.6"], "n1.all.x": ["10.0.0.7"]]
    let records = [
      ServiceRecord(priority: 0, port: 7001, host: "n0.all.x"),
      ServiceRecord(priority: 0, port: 9001, host: "n1.all.x"),
      ServiceRecord(priority: 0, port: 0, host: "n2.all.x"),
    ]
    lookup.ask(addresses: { hosts[$0] }, records: { _ in records })
    let all = [
      Place(at: Self.address(1)), Place(at: StreamAddress(host: "::5", port: 7002)),
      Self.named("n0", 6),
      Place(name: "n1", address: StreamAddress(host: "10.0.0.7", port: 9002)),
    ]
    #expect(lookup.ofServices == all && lookup.told.isEmpty)
    // The records are there, and their hosts cannot be asked for.
    lookup.ask(addresses: { _ in nil }, records: { _ in records })
    #expect(lookup.ofServices == all)
    lookup.ask(addresses: { _ in nil }, records: { _ in [] })
    #expect(lookup.ofServices == Array(all[..<2]))
  }

  // MARK: The message

  /// An answer as a name service writes it: names point back into it.
  static let message: [UInt8] = {
    var bytes: [UInt8] = [0, 1, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]
    bytes += [1, 0x73, 1, 0x78, 0, 0, 33, 0, 1]  // s.x, SRV
    for (port, label) in [(7001, 0x30), (9001, 0x31)] as [(Int, UInt8)] {
      bytes += [0xC0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, 11]
      bytes += [0, 5, 0, 0, UInt8(port >> 8), UInt8(port & 0xFF), 2, 0x6E, label, 0xC0, 14]
    }
    return bytes
  }()

  @Test func `an answer's records are read through its pointers`() throws {
    #expect(
      try DNSAnswer.services(Self.message) == [
        ServiceRecord(priority: 5, port: 7001, host: "n0.x"),
        ServiceRecord(priority: 5, port: 9001, host: "n1.x"),
      ])
  }

  @Test func `a question is no answer, nor is an error`() {
    for flags in [[0x01, 0x00], [0x81, 0x83]] as [[UInt8]] {
      var bytes = Self.message
      (bytes[2], bytes[3]) = (flags[0], flags[1])
      #expect(throws: DNSAnswer.Invalid.notAnswer) { try DNSAnswer.services(bytes) }
    }
  }

  @Test func `an answer cut or changed anywhere is read, or refused, and ends`() {
    for count in 0..<Self.message.count {
      #expect(throws: DNSAnswer.Invalid.self) {
        try DNSAnswer.services(Array(Self.message[..<count]))
      }
    }
    for place in Self.message.indices {
      for bit in 0..<8 {
        var bytes = Self.message
        bytes[place] ^= 1 << bit
        let found = (try? DNSAnswer.services(bytes)) ?? []
        #expect(found.count <= 2)
      }
    }
    // A name that points at itself.
    var loop = Self.message
    (loop[12], loop[13]) = (0xC0, 12)
    #expect(throws: DNSAnswer.Invalid.pointers) { try DNSAnswer.services(loop) }
  }

  // MARK: In a node

  static func node() -> NodeCore {
    NodeCore(
      node: Incarnation(high: 1, low: 1), name: "a", members: [], memoryBytes: 1 << 20,
      limits: Limits())
  }
  static func welcome(_ name: PeerName, _ number: UInt64) -> StreamWelcome {
    StreamWelcome(node: Incarnation(high: 2, low: number), name: name)
  }

  @Test func `a member that leaves is forgotten with all that it announced`() {
    var core = Self.node()
    core.admit("b")
    #expect(core.watched("b", as: Self.welcome("b", 1), after: .zero) == nil)
    let key = BlockKey(high: 1, low: 1)
    #expect(core.heard(.snapshot([key], isLast: true), from: "b") == true)
    #expect(core.report.members.map(\.keys) == [1])
    core.dismiss("b")
    #expect(core.report.members.isEmpty)
    #expect(core.watched("b", as: Self.welcome("b", 1), after: .zero) == .unknown)
  }

  @Test func `what one that has left still says counts for nothing, however many have left`() {
    var core = Self.node()
    for round in 0..<200 {
      let name = PeerName("10.0.1.\(round):7002")
      core.admit(name, isNamed: false)
      #expect(
        core.watched(name, as: Self.welcome(PeerName("n\(round)"), UInt64(round)), after: .zero)
          == nil)
      core.dismiss(name)
      let key = BlockKey(high: UInt64(round), low: 1)
      #expect(core.heard(.snapshot([key], isLast: true), from: name) == false)
    }
    core.admit("b")
    #expect(core.watched("b", as: Self.welcome("b", 999), after: .zero) == nil)
    #expect(core.heard(.snapshot([BlockKey(high: 1, low: 1)], isLast: true), from: "b") == true)
    #expect(core.report.members.map(\.keys) == [1])
  }

  @Test func `an address's node may have any name that nobody else has`() {
    var core = Self.node()
    core.admit("10.0.0.2:7002", isNamed: false)
    core.admit("10.0.0.3:7002", isNamed: false)
    core.admit("c")
    #expect(core.watched("10.0.0.2:7002", as: Self.welcome("b", 2), after: .zero) == nil)
    #expect(core.report.members.first?.saidName == "b")
    // The same node at two addresses, and two nodes of one name.
    #expect(
      core.watched("10.0.0.3:7002", as: Self.welcome("b", 2), after: .zero)
        == .twice("10.0.0.2:7002"))
    #expect(
      core.watched("10.0.0.3:7002", as: Self.welcome("b", 3), after: .zero)
        == .sharesName("b", with: "10.0.0.2:7002"))
    #expect(
      core.watched("10.0.0.3:7002", as: Self.welcome("a", 3), after: .zero)
        == .sharesName("a", with: "this node"))
    // One that is told by its name must have it.
    #expect(core.watched("c", as: Self.welcome("d", 4), after: .zero) == .named("d"))
    // Once the other is away its name is free: it may have moved.
    core.lost("10.0.0.2:7002", because: nil)
    #expect(core.watched("10.0.0.3:7002", as: Self.welcome("b", 5), after: .zero) == nil)
  }

  @Test func `an address that is the node's own is let be for a while, without a word`() {
    var core = Self.node()
    core.admit("10.0.0.1:7002", isNamed: false)
    let hello = StreamHello(node: core.node, name: "a", terms: nil)
    var machine = WatchMachine(
      "10.0.0.1:7002", isNamed: false, at: "10.0.0.1:7002", as: hello, limits: Limits(),
      from: LocalInstant(nanoseconds: 0))
    _ = machine.timePassed(&core, at: LocalInstant(nanoseconds: 0))
    let own = StreamMessage.welcome(StreamWelcome(node: core.node, name: "a"))
    let orders = `A stream between two nodes`.give(
      own, &machine, &core, at: LocalInstant(nanoseconds: 1))
    #expect(orders == [.close])
    #expect(machine.nextDeadline == LocalInstant(nanoseconds: 30_000_000_001))
  }

  @Test func `a node that leaves begins no answer, and goes on with those that there are`() {
    var core = Self.node()
    let key = BlockKey(high: 1, low: 1)
    let before = core.serves(key, to: "b", at: LocalInstant(nanoseconds: 0))
    core.isLeaving = true
    let after = core.serves(
      BlockKey(high: 2, low: 2), to: "c", at: LocalInstant(nanoseconds: 0))
    #expect(before == .begins && after == .busy(others: []))
    #expect(core.report.serving == 1)
    core.served(key, to: "b")
    #expect(core.report.serving == 0)
  }

  @Test func `a node that leaves waits for whoever reads by himself, and lets no other begin`() {
    var node = `A node`.Bench()
    let (key, now) = (BlockKey(high: 1, low: 1), `A node`.at(0))
    node.announce("b", [key])
    node.want([key], at: now)
    node.land(node.pulls[0].stream, 0, at: now)
    node.take(node.core.ended(node.pulls[0].stream, .served, at: now))
    node.take(node.core.received(.release(lease: 1), from: node.leader, at: now))
    func lease(_ serial: UInt64) -> LeaseID {
      LeaseID(
        serial: serial, owner: Incarnation(high: 2, low: 2), holder: Incarnation(high: 9, low: 9))
    }
    let granted = node.core.resolve([key], as: lease(1), ttl: nil, at: now)
    guard case .granted = granted else {
      Issue.record("\(granted)")
      return
    }
    node.core.isLeaving = true
    #expect(!node.core.isDrained)
    #expect(node.core.resolve([key], as: lease(2), ttl: nil, at: now) == .refused(.gone))
    #expect(node.core.confirm(lease(1), at: now) == .intact(1))
    _ = node.core.release(lease(1), at: now)
    #expect(node.core.isDrained)
  }
}

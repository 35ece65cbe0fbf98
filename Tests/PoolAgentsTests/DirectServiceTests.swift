import Foundation
import LocalStore
import NodeTesting
import OSThreads
import PoolAgents
import RemoteG2Control
import RemoteG2Core
import RemoteG2Node
import Testing

/// Equality of answers; `#expect` cannot hold a typed throw.
func same<Value: Equatable>(
  _ found: Value, _ expected: Value, location: SourceLocation = #_sourceLocation
) {
  #expect(found == expected, sourceLocation: location)
}

@Suite struct `Store over the wire` {
  static let fingerprint = NodeEngine.fingerprint()

  static let holder = Incarnation(high: 8, low: 8)
  static func lease(_ serial: UInt64, of owner: Incarnation) -> LeaseID {
    LeaseID(serial: serial, owner: owner, holder: holder)
  }

  /// A node with an engine beside it, served to peers whose agent is this test, and a client.
  struct Served {
    let node: TestNode
    let engine: NodeEngine
    let service: DirectService
    let peer: StoreClient

    /// Puts blocks into the pool as an engine does.
    func fill(_ keys: [BlockKey]) {
      let before = node.sealed
      engine.step()
      engine.save(keys) { UInt64($0) }
      #expect(comes { node.sealed == before + keys.count })
    }

    /// Has the node evict what nobody pins, as an engine's leader may.
    ///
    /// - Returns: How many blocks went.
    func evict() throws -> Int {
      let socket = try LocalSocket.connect(node.socket).get()
      let hello = LocalHello(
        engine: Incarnation(high: 77, low: 7), role: .leader, fingerprint: fingerprint,
        stagingSlots: 0, blockBytes: NodeEngine.layers * NodeEngine.page)
      socket.send(.hello(hello))
      socket.send(.evict(1))
      var found: Int?
      _ = comes {
        if case .message(.evicted(1, let count), _) = socket.receive() { found = count }
        return found != nil
      }
      return try #require(found)
    }
  }

  static func serve(
    servesPeers: Bool = true, _ body: (Served, Incarnation) async throws -> Void
  ) async throws {
    let node = try TestNode("S", hasAgents: true)
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    try #require(engine.comes { engine.isAttached })
    let service = DirectService(serving: node.node)
    let owner = servesPeers ? try #require(node.serveAgents().first) : holder
    let server = try await StoreServer.start(
      backend: service, host: "127.0.0.1", port: 0, limits: Limits())
    let peer = try StoreClient(StoreAddress(host: "127.0.0.1", port: server.port))
    try await body(Served(node: node, engine: engine, service: service, peer: peer), owner)
    peer.stop()
    await server.stop()
  }

  static let second: Duration = .seconds(5)

  @Test func `a pool whose agent is still starting tells peers to come again`() async throws {
    try await Self.serve(servesPeers: false) { served, _ in
      let peer = served.peer
      await #expect(throws: CallError.starting) {
        try await peer.handshake(
          as: Self.fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
          timeout: Self.second)
      }
      #expect(served.node.serveAgents().count == 1)
      let introduced = try await peer.handshake(
        as: Self.fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
        timeout: Self.second)
      #expect(introduced.pools.count == 1)
    }
  }

  @Test func `a lease travels from its name to its end`() async throws {
    try await Self.serve { served, owner in
      let peer = served.peer
      let key = BlockKey(high: 1, low: 2)
      same(
        try await peer.resolve(
          [key], as: Self.lease(1, of: owner), ttl: nil, timeout: Self.second), .refused(.gone))
      served.fill([key])
      let lease = Self.lease(2, of: owner)
      guard
        case .granted(let grant) = try await peer.resolve(
          [key], as: lease, ttl: .seconds(9), timeout: Self.second)
      else {
        Issue.record("not granted")
        return
      }
      #expect(grant.blocks.count == 1 && grant.blocks[0].digests.count == 1)
      #expect(grant.ttl == .seconds(9) && grant.lease == lease)
      same(
        try await peer.renew(grant.lease, ttl: .seconds(3), timeout: Self.second),
        .renewed(ttl: .seconds(3)))
      same(try await peer.confirm(grant.lease, timeout: Self.second), .intact(1))
      #expect(try served.evict() == 0)
      same(try await peer.release(grant.lease, timeout: Self.second), .released)
      same(try await peer.release(grant.lease, timeout: Self.second), .alreadyEnded)
      #expect(try served.evict() == 1)
      let (incarnation, stats) = try await peer.stats(timeout: Self.second)
      #expect(incarnation == served.node.node.incarnation)
      #expect(stats.granted == 1 && stats.free == stats.slots)
    }
  }

  @Test func `a lease that nobody renews ends by its deadline, though nothing else happens`()
    async throws
  {
    try await Self.serve { served, owner in
      let key = BlockKey(high: 1, low: 2)
      served.fill([key])
      let answer = try await served.peer.resolve(
        [key], as: Self.lease(1, of: owner), ttl: .milliseconds(30), timeout: Self.second)
      guard case .granted = answer else {
        Issue.record("\(answer)")
        return
      }
      #expect(comes { served.node.held == 0 })
    }
  }

  @Test func `a request for another incarnation is gone`() async throws {
    try await Self.serve { served, _ in
      let stranger = Incarnation(high: 9, low: 9)
      let key = BlockKey(high: 1, low: 2)
      served.fill([key])
      same(
        try await served.peer.resolve(
          [key], as: Self.lease(1, of: stranger), ttl: nil, timeout: Self.second),
        .refused(.gone))
      same(try await served.peer.confirm(Self.lease(1, of: stranger), timeout: Self.second), .gone)
    }
  }

  @Test func `an agent that ended takes its name along, and the next serves under another`()
    async throws
  {
    try await Self.serve { served, owner in
      let (node, peer, key) = (served.node, served.peer, BlockKey(high: 1, low: 2))
      served.fill([key])
      let next = Incarnation(high: 5, low: 5)
      func handshake() async throws -> Introduction {
        try await peer.handshake(
          as: Self.fingerprint, name: "T", incarnation: Self.holder, timeout: Self.second)
      }
      #expect(try await handshake().incarnation == owner)
      let held = try await peer.resolve(
        [key], as: Self.lease(7, of: owner), ttl: .seconds(60), timeout: Self.second)
      guard case .granted = held else {
        Issue.record("\(held)")
        return
      }
      #expect(node.held > 0)
      let pool = PoolNumber(1)
      node.node.decide { core, now in core.agentEnded(pool, owner, next: next, at: now) }
      #expect(node.held == 0, "who read under its name reads no more")
      await #expect(throws: CallError.starting) { _ = try await handshake() }
      same(
        try await peer.resolve(
          [key], as: Self.lease(1, of: owner), ttl: nil, timeout: Self.second), .refused(.gone))
      // Its pause is over soon.
      var named: [Incarnation] = []
      #expect(
        comes {
          named += node.serveAgents()
          return !named.isEmpty
        })
      #expect(named == [next])
      let introduced = try await handshake()
      #expect(introduced.incarnation == next && introduced.pools.count == 1)
      guard
        case .granted = try await peer.resolve(
          [key], as: Self.lease(2, of: next), ttl: nil, timeout: Self.second)
      else {
        Issue.record("what the pool holds was lost with its agent")
        return
      }
    }
  }

  @Test(arguments: ["model", "layout", "numerics", "hash scheme"])
  func `a peer of another kind learns what differs, and gets no pool`(field: String) async throws {
    try await Self.serve { served, _ in
      let peer = served.peer
      var other = Self.fingerprint
      switch field {
      case "model": other.modelDigest = "x"
      case "layout": other.layout = "x"
      case "numerics": other.numerics = "x"
      default: other.hashScheme = "x"
      }
      let introduction = try await peer.handshake(
        as: other, name: "T", incarnation: Incarnation(high: 1, low: 1), timeout: Self.second)
      #expect(introduction.pools.isEmpty)
      #expect(other.mismatch(with: introduction.fingerprint)?.field == field)
    }
  }

  @Test func `with certificates only who proves his name is served, and asks only who does`()
    async throws
  {
    let forge = try CertificateForge()
    let authority = try forge.make("authority", CertificateForge.authority)
    let stranger = try forge.make("stranger", CertificateForge.authority)
    func certificates(_ name: String, by issuer: CertificateForge.Made, as file: String? = nil)
      throws -> ControlCertificates
    {
      let made = try forge.make(file ?? name, CertificateForge.named(name), by: issuer)
      return ControlCertificates(
        certificate: made.certificate, key: made.key, authority: authority.certificate)
    }
    let node = try TestNode("S", hasAgents: true)
    defer { node.stop() }
    let own = try certificates("S", by: authority)
    let server = try await StoreServer.start(
      backend: DirectService(serving: node.node), host: "127.0.0.1", port: 0, limits: Limits(),
      certificates: own)
    let address = StoreAddress(host: "127.0.0.1", port: server.port)
    func isServed(_ shown: ControlCertificates?, asks name: PeerName = "S") async throws -> Bool {
      let client = try StoreClient(address, of: name, certificates: shown)
      defer { client.stop() }
      do throws(CallError) {
        _ = try await client.stats(timeout: Self.second)
        return true
      } catch { return error == .starting }
    }
    let good = try certificates("T", by: authority)
    #expect(try await isServed(good))
    #expect(try await !isServed(nil))
    #expect(try await !isServed(certificates("T", by: stranger, as: "false")))
    // What listens there is S, and not who was meant.
    #expect(try await !isServed(good, asks: "R"))
    await server.stop()
  }

  @Test func `a port in use is named`() async throws {
    try await Self.serve { served, _ in
      let port = served.peer.address.port
      await #expect(throws: ServeError.addressInUse(host: "127.0.0.1", port: port)) {
        _ = try await StoreServer.start(
          backend: served.service, host: "127.0.0.1", port: port, limits: Limits())
      }
    }
  }

  @Test func `a call to nobody fails at once, and the probe finds that nobody is there`()
    async throws
  {
    let client = try StoreClient(StoreAddress(host: "127.0.0.1", port: 1))
    await #expect(throws: CallError.self) {
      _ = try await client.stats(timeout: Self.second)
    }
    client.stop()
    #expect(EndpointProbe.look(at: client.address) == .refused)
    try await Self.serve { served, _ in
      #expect(EndpointProbe.look(at: served.peer.address) == .listening)
    }
  }
}

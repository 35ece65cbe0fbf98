import Foundation
import OSThreads
import RemoteG2Control
import RemoteG2Core
import RemoteG2Store
import Testing

/// Equality of answers; `#expect` cannot hold a typed throw.
func same<Value: Equatable>(
  _ found: Value, _ expected: Value, location: SourceLocation = #_sourceLocation
) {
  #expect(found == expected, sourceLocation: location)
}

@Suite struct `Store over the wire` {
  static let fingerprint = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")

  /// A served store, without NIXL, and a client on each of its addresses.
  static func serve(
    servesPeers: Bool = true, _ body: (StoreService, StoreClient, StoreClient) async throws -> Void
  ) async throws {
    let owner = Incarnation(high: 3, low: 4)
    let pool = try PoolMemory(slotCount: 8, blockBytes: 4096, owner: owner)
    let service = StoreService(
      StoreConfiguration(
        name: "S", fingerprint: fingerprint, slotCount: 8, blockBytes: 4096, rankCount: 1,
        limits: Limits()), incarnation: owner, pools: [pool], willServePeers: true)
    if servesPeers { service.serve([1, 2, 3]) }
    let path = FileManager.default.temporaryDirectory.path + "/rg2-\(UUID().uuidString.prefix(8))"
    let server = try await StoreServer.start(
      backend: service, host: "127.0.0.1", port: 0, socketPath: path, limits: Limits())
    let peer = try StoreClient(.tcp(host: "127.0.0.1", port: server.port))
    let engine = try StoreClient(.unix(path: path))
    try await body(service, peer, engine)
    peer.stop()
    engine.stop()
    await server.stop()
    try? FileManager.default.removeItem(atPath: path)
  }

  static let second: Duration = .seconds(5)

  @Test func `a store that is still starting serves its engine, and tells peers to come again`()
    async throws
  {
    try await Self.serve(servesPeers: false) { service, peer, engine in
      let attached = try await engine.attach(timeout: Self.second).incarnation
      #expect(attached == service.incarnation)
      await #expect(throws: CallError.starting) {
        try await peer.handshake(
          as: Self.fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
          timeout: Self.second)
      }
      service.serve([1, 2, 3])
      let introduced = try await peer.handshake(
        as: Self.fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
        timeout: Self.second)
      #expect(introduced.pools.count == 1)
    }
  }

  @Test func `a block travels from reserve to confirm`() async throws {
    try await Self.serve { service, peer, engine in
      let key = BlockKey(high: 1, low: 2)
      let owner = service.incarnation
      same(
        try await peer.resolve([key], from: owner, ttl: nil, timeout: Self.second), .refused(.gone))
      let reservations = try await engine.reserve([key], of: owner, timeout: Self.second)
      guard case .reserved(let slot, let generation)? = reservations.first else {
        Issue.record("not reserved: \(reservations)")
        return
      }
      let digest = Digest128(high: 7, low: 8)
      same(
        try await engine.seal(
          [SealedSlot(slot: slot, generation: generation, digest: digest)], rank: 0, of: owner,
          timeout: Self.second), 1)
      guard
        case .granted(let grant) = try await peer.resolve(
          [key], from: owner, ttl: .seconds(9), timeout: Self.second)
      else {
        Issue.record("not granted")
        return
      }
      #expect(grant.blocks == [GrantedBlock(slot: slot, generation: generation, digests: [digest])])
      #expect(grant.ttl == .seconds(9))
      same(
        try await peer.renew(grant.lease, ttl: .seconds(3), timeout: Self.second),
        .renewed(ttl: .seconds(3)))
      same(try await peer.confirm(grant.lease, timeout: Self.second), .intact(1))
      same(try await engine.evictUnpinned(timeout: Self.second), 0)
      same(try await peer.release(grant.lease, timeout: Self.second), .released)
      same(try await peer.release(grant.lease, timeout: Self.second), .alreadyEnded)
      same(try await engine.evictUnpinned(timeout: Self.second), 1)
      let (incarnation, stats) = try await peer.stats(timeout: Self.second)
      #expect(incarnation == owner && stats.granted == 1 && stats.free == 8)
    }
  }

  @Test func `a request for another incarnation is gone`() async throws {
    try await Self.serve { service, peer, engine in
      let stranger = Incarnation(high: 9, low: 9)
      let key = BlockKey(high: 1, low: 2)
      same(
        try await peer.resolve([key], from: stranger, ttl: nil, timeout: Self.second),
        .refused(.gone))
      let lease = LeaseID(serial: 1, owner: stranger)
      same(try await peer.confirm(lease, timeout: Self.second), .gone)
      same(try await engine.reserve([key], of: stranger, timeout: Self.second), [.full])
    }
  }

  @Test(arguments: ["model", "layout", "numerics", "hash scheme"])
  func `a peer of another kind learns what differs, and gets no pool`(field: String) async throws {
    try await Self.serve { _, peer, _ in
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

  @Test func `the engine maps the pool that the store owns`() async throws {
    try await Self.serve { service, _, engine in
      let attachment = try await engine.attach(timeout: Self.second)
      let mapped = try PoolMemory(
        of: attachment.process, descriptor: attachment.descriptors[0],
        slotCount: attachment.slotCount, blockBytes: attachment.blockBytes,
        owner: attachment.incarnation)
      mapped.base.storeBytes(of: 0x1234_5678, as: UInt32.self)
      let again = try PoolMemory(
        of: attachment.process, descriptor: attachment.descriptors[0], slotCount: 8,
        blockBytes: 4096, owner: service.incarnation)
      #expect(again.base.load(as: UInt32.self) == 0x1234_5678)
      #expect(throws: PoolError.self) {
        _ = try PoolMemory(
          of: attachment.process, descriptor: attachment.descriptors[0], slotCount: 8,
          blockBytes: 4096, owner: Incarnation(high: 0, low: 0))
      }
    }
  }

  @Test func `a port in use is named`() async throws {
    try await Self.serve { service, peer, _ in
      guard case .tcp(_, let port) = peer.address else { return }
      let path = FileManager.default.temporaryDirectory.path + "/rg2-\(UUID().uuidString.prefix(8))"
      await #expect(throws: ServeError.addressInUse(host: "127.0.0.1", port: port)) {
        _ = try await StoreServer.start(
          backend: service, host: "127.0.0.1", port: port, socketPath: path, limits: Limits())
      }
    }
  }

  @Test func `a call to nobody fails at once, and the probe proves that nobody is there`()
    async throws
  {
    let client = try StoreClient(.tcp(host: "127.0.0.1", port: 1))
    await #expect(throws: CallError.self) {
      _ = try await client.stats(timeout: Self.second)
    }
    client.stop()
    #expect(EndpointProbe.look(at: client.address) == .refused)
    #expect(EndpointProbe.look(at: .unix(path: "/nonexistent.sock")) == .refused)
    try await Self.serve { _, peer, engine in
      #expect(EndpointProbe.look(at: peer.address) == .listening)
      #expect(EndpointProbe.look(at: engine.address) == .listening)
    }
  }
}

import Foundation
import LocalStore
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

  static let holder = Incarnation(high: 8, low: 8)
  static func lease(_ serial: UInt64, of owner: Incarnation) -> LeaseID {
    LeaseID(serial: serial, owner: owner, holder: holder)
  }

  /// Puts blocks into a store as its own engine would have.
  static func fill(_ service: StoreService, _ keys: [BlockKey], _ digest: Digest128) {
    service.ledger.withLock { ledger in
      for key in keys {
        guard case .reserved(let slot, let generation) = ledger.pool.begin(key, after: nil) else {
          continue
        }
        ledger.pool.seal(slot, generation: generation, digests: [digest])
      }
    }
  }

  /// A store served to its peers, without NIXL, and a client.
  static func serve(
    servesPeers: Bool = true, _ body: (StoreService, StoreClient) async throws -> Void
  ) async throws {
    let owner = Incarnation(high: 3, low: 4)
    let pool = try PoolMemory(slotCount: 8, blockBytes: 4096, owner: owner)
    let service = StoreService(
      StoreConfiguration(
        name: "S", fingerprint: fingerprint, slotCount: 8, blockBytes: 4096, rankCount: 1,
        limits: Limits()), incarnation: owner, pools: [pool], willServePeers: true)
    if servesPeers { service.serve([1, 2, 3]) }
    let server = try await StoreServer.start(
      backend: service, host: "127.0.0.1", port: 0, limits: Limits())
    let peer = try StoreClient(StoreAddress(host: "127.0.0.1", port: server.port))
    try await body(service, peer)
    peer.stop()
    await server.stop()
  }

  static let second: Duration = .seconds(5)

  @Test func `a store that is still starting tells peers to come again`() async throws {
    try await Self.serve(servesPeers: false) { service, peer in
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

  @Test func `a lease travels from its name to its end`() async throws {
    try await Self.serve { service, peer in
      let key = BlockKey(high: 1, low: 2)
      let owner = service.incarnation
      same(
        try await peer.resolve(
          [key], as: Self.lease(1, of: owner), ttl: nil, timeout: Self.second), .refused(.gone))
      let digest = Digest128(high: 7, low: 8)
      Self.fill(service, [key], digest)
      let lease = Self.lease(2, of: owner)
      guard
        case .granted(let grant) = try await peer.resolve(
          [key], as: lease, ttl: .seconds(9), timeout: Self.second)
      else {
        Issue.record("not granted")
        return
      }
      #expect(
        grant.blocks == [GrantedBlock(slot: SlotIndex(0), generation: 1, digests: [digest])])
      #expect(grant.ttl == .seconds(9) && grant.lease == lease)
      same(
        try await peer.renew(grant.lease, ttl: .seconds(3), timeout: Self.second),
        .renewed(ttl: .seconds(3)))
      same(try await peer.confirm(grant.lease, timeout: Self.second), .intact(1))
      #expect(service.ledger.withLock { $0.pool.evictUnpinned() } == 0)
      same(try await peer.release(grant.lease, timeout: Self.second), .released)
      same(try await peer.release(grant.lease, timeout: Self.second), .alreadyEnded)
      #expect(service.ledger.withLock { $0.pool.evictUnpinned() } == 1)
      let (incarnation, stats) = try await peer.stats(timeout: Self.second)
      #expect(incarnation == owner && stats.granted == 1 && stats.free == 8)
    }
  }

  @Test func `a request for another incarnation is gone`() async throws {
    try await Self.serve { service, peer in
      let stranger = Incarnation(high: 9, low: 9)
      let key = BlockKey(high: 1, low: 2)
      Self.fill(service, [key], Digest128(high: 1, low: 1))
      same(
        try await peer.resolve(
          [key], as: Self.lease(1, of: stranger), ttl: nil, timeout: Self.second),
        .refused(.gone))
      same(try await peer.confirm(Self.lease(1, of: stranger), timeout: Self.second), .gone)
    }
  }

  @Test(arguments: ["model", "layout", "numerics", "hash scheme"])
  func `a peer of another kind learns what differs, and gets no pool`(field: String) async throws {
    try await Self.serve { _, peer in
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

  @Test func `a port in use is named`() async throws {
    try await Self.serve { service, peer in
      let port = peer.address.port
      await #expect(throws: ServeError.addressInUse(host: "127.0.0.1", port: port)) {
        _ = try await StoreServer.start(
          backend: service, host: "127.0.0.1", port: port, limits: Limits())
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
    try await Self.serve { _, peer in
      #expect(EndpointProbe.look(at: peer.address) == .listening)
    }
  }
}

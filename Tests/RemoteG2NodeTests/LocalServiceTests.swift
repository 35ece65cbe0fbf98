import ContentDigest
import Foundation
import LocalStore
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node
import Simulation
import Testing

/// The local protocol over real sockets and real memory: what an engine can do to its store, and what not.
@Suite(.serialized) struct `The local service` {
  static let fingerprint = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 2, numerics: "n")
  static let bytes = 8192
  static let engine = Incarnation(high: 6, low: 6)

  /// A node with a pool for two ranks.
  final class Store {
    let node: TestNode
    let incarnation: Incarnation
    /// Made the pool, and looks into it.
    private let maker: LocalSocket
    private var serial: UInt64 = 1000

    init(
      in directory: String? = nil, slots: Int = 4, blockBytes: Int = bytes,
      limits: Limits = Limits()
    ) throws {
      node = try TestNode(
        "a", memoryBytes: slots * blockBytes * 2, limits: limits, directory: directory)
      (maker, incarnation) = try `The local service`.welcome(
        node.socket, Incarnation(high: 99, low: 99), blockBytes: blockBytes)
    }

    var path: String { node.socket }
    var stats: StoreStats { node.node.look { $0.stats(of: PoolNumber(1)) } ?? StoreStats() }
    var pools: [PoolMemory] { node.node.memory(of: PoolNumber(1)) ?? [] }
    func stop() { node.stop() }

    /// The bytes of every sealed slot, by key.
    func sealed(_ keys: [BlockKey]) -> [BlockKey: [Digest128]] {
      var found: [BlockKey: [Digest128]] = [:]
      for key in keys {
        serial += 1
        maker.send(.lookup(lease: serial, keys: [key], isLast: true))
        guard case .found(_, let blocks, _)? = `The local service`.next(maker) else { continue }
        found[key] = pools.map {
          ContentDigest.of(
            UnsafeRawBufferPointer(
              start: $0.pointer(to: blocks[0].slot), count: $0.blockBytes))
        }
        maker.send(.release(lease: serial))
      }
      return found
    }
  }

  /// Connects as an engine's leader.
  ///
  /// - Returns: The connection, and the pool's name.
  static func welcome(
    _ path: String, _ engine: Incarnation, blockBytes: Int = bytes
  ) throws -> (LocalSocket, Incarnation) {
    let socket = try LocalSocket.connect(path).get()
    socket.send(
      .hello(
        LocalHello(
          engine: engine, role: .leader, fingerprint: fingerprint, stagingSlots: 0,
          blockBytes: blockBytes)))
    guard case .welcome(let welcome) = next(socket) else { throw CancellationError() }
    return (socket, welcome.store)
  }

  static func leader(_ store: Store, _ engine: Incarnation = engine) throws -> LocalSocket {
    try welcome(store.path, engine, blockBytes: store.pools[0].blockBytes).0
  }

  /// The next message; nil when the connection has ended.
  static func next(_ socket: LocalSocket) -> LocalMessage? {
    var found: LocalMessage?
    _ = comes {
      switch socket.receive() {
      case .nothing: return false
      case .message(let message, _):
        found = message
        return true
      case .malformed, .closed: return true
      }
    }
    return found
  }

  static func rank(
    _ rank: Int, _ store: Store, _ engine: Incarnation = engine,
    stagingSlots: Int = 4
  ) throws -> OwnPool {
    let hello = LocalHello(
      engine: engine, role: .rank(rank), fingerprint: fingerprint, stagingSlots: stagingSlots,
      blockBytes: store.pools[0].blockBytes)
    return try #require(
      OwnPool.open(
        socket: store.path, store: store.incarnation, hello: hello, now: MonotonicClock.now,
        nap: { OSThread.nap($0) }))
  }

  static let keys = (0..<6).map { BlockKey(high: UInt64($0), low: 3) }

  static func stage(_ pool: OwnPool, _ slot: UInt32, _ key: BlockKey, _ byte: Int32) {
    memset(pool.link.pointer(to: slot), byte, bytes)
    _ = pool.link.send(.staged([StagedBlock(slot: slot, key: key)]))
  }

  @Test func `a block is sealed when every rank has staged it, and read through the words`() throws
  {
    let store = try Store()
    defer { store.stop() }
    let leader = try Self.leader(store)
    let ranks = try (0..<2).map { try Self.rank($0, store) }
    defer { withExtendedLifetime((leader, ranks)) {} }
    leader.send(.offer(batch: 1, keys: Self.keys))
    #expect(Self.next(leader) == .wanted(batch: 1, [0, 1, 2, 3, 4, 5]))
    Self.stage(ranks[0], 0, Self.keys[0], 0x11)
    leader.send(.commit([CommittedBlock(key: Self.keys[0], parent: nil)]))
    #expect(comes { store.node.report.pools[0].staged == 1 } && store.stats.sealed == 0)
    Self.stage(ranks[1], 0, Self.keys[0], 0x22)
    #expect(
      Self.next(leader) == .saved([SaveOutcome(key: Self.keys[0], kind: .sealed)]))
    for (rank, byte) in [UInt8(0x11), 0x22].enumerated() {
      var copy = [UInt8](repeating: 0, count: Self.bytes)
      let mapping = ranks[rank].mapping
      #expect(mapping.words.read(SlotIndex(0), 1) { memcpy(&copy, mapping.base, Self.bytes) })
      #expect(copy.allSatisfy { $0 == byte })
    }
    // And it can be found, with digests that name it.
    leader.send(.lookup(lease: 9, keys: [Self.keys[0]], isLast: true))
    guard case .found(9, let blocks, true)? = Self.next(leader) else {
      Issue.record("it was not found")
      return
    }
    let bytes = [UInt8](repeating: 0x22, count: Self.bytes)
    let digest = bytes.withUnsafeBytes { ContentDigest.of($0, key: Self.keys[0], rank: 1) }
    #expect(blocks.first?.digests[1] == digest)
    leader.send(.release(lease: 9))
    #expect(comes { store.stats.pinned == 0 })
  }

  @Test
  func `an engine that is stopped in the middle of staging, and goes on, changes no sealed byte`()
    throws
  {
    var store = try Store()
    let (leader, ranks) = (
      try Self.leader(store), try (0..<2).map { try Self.rank($0, store) }
    )
    // Stopped: it has staged one rank's half, and holds everything in its hands.
    Self.stage(ranks[0], 0, Self.keys[0], 0x11)
    #expect(comes { store.node.report.pools[0].staged == 1 })
    // Its store is restarted twice; another engine of its name fills the last one.
    let directory = store.node.configuration.directory
    for _ in 0..<2 {
      store.node.node.stop()
      store = try Store(in: directory)
    }
    defer { store.stop() }
    let other = Incarnation(high: 7, low: 7)
    let otherLeader = try Self.leader(store, other)
    let otherRanks = try (0..<2).map { try Self.rank($0, store, other) }
    defer { withExtendedLifetime((otherLeader, otherRanks)) {} }
    for (index, key) in Self.keys.prefix(4).enumerated() {
      for rank in otherRanks { Self.stage(rank, UInt32(index), key, Int32(0x40 + index)) }
    }
    otherLeader.send(
      .commit(Self.keys.prefix(4).map { CommittedBlock(key: $0, parent: nil) }))
    #expect(comes { store.stats.sealed == 4 })
    let before = store.sealed(Self.keys)
    // It goes on: the other half, the commit, and everything it can write.
    Self.stage(ranks[1], 0, Self.keys[0], 0x12)
    leader.send(.commit([CommittedBlock(key: Self.keys[0], parent: nil)]))
    for rank in ranks {
      for slot in 0..<UInt32(rank.link.slotCount) {
        memset(rank.link.pointer(to: slot), 0xEE, Self.bytes)
      }
    }
    #expect(ranks[1].link.receive() == nil, "its connection outlived its store")
    otherLeader.send(.ping(1))
    #expect(comes { Self.next(otherLeader) == .pong(1) })
    #expect(store.sealed(Self.keys) == before && before.count == 4)
  }

  @Test func `what an engine is given of a pool cannot be written`() throws {
    let store = try Store()
    defer { store.stop() }
    let socket = try LocalSocket.connect(store.path).get()
    socket.send(
      .hello(
        LocalHello(
          engine: Self.engine, role: .rank(1), fingerprint: Self.fingerprint, stagingSlots: 2,
          blockBytes: Self.bytes)))
    var received: ReceivedDescriptors?
    #expect(
      comes {
        guard case .message(.welcome, let descriptors) = socket.receive() else { return false }
        received = descriptors
        return true
      })
    let pool = try #require(received?.take())
    defer { close(pool) }
    let size = store.pools[1].shape.byteCount
    let writable = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED, pool, 0)
    #expect(writable == MAP_FAILED)
    #expect(pwrite(pool, "x", 1, 0) < 0 && ftruncate(pool, 0) != 0)
    var status = stat()
    #expect(fstat(pool, &status) == 0 && status.st_mode & 0o777 == 0)
  }

  @Test func `right bytes with a right digest under a wrong key are refused`() throws {
    let store = try Store()
    defer { store.stop() }
    let leader = try Self.leader(store)
    let ranks = try (0..<2).map { try Self.rank($0, store) }
    defer { withExtendedLifetime((leader, ranks)) {} }
    let block = [UInt8](repeating: 0x33, count: Self.bytes)
    func digests(_ key: BlockKey) -> [Digest128] {
      (0..<2).map { rank in block.withUnsafeBytes { ContentDigest.of($0, key: key, rank: rank) } }
    }
    for rank in ranks {
      for slot in 0..<2 { Self.stage(rank, UInt32(slot), Self.keys[slot], 0x33) }
    }
    leader.send(
      .commit([
        CommittedBlock(key: Self.keys[0], parent: nil, digests: digests(Self.keys[1])),
        CommittedBlock(key: Self.keys[1], parent: nil, digests: digests(Self.keys[1])),
      ]))
    #expect(
      Self.next(leader) == .saved([SaveOutcome(key: Self.keys[0], kind: .wrongBytes)]))
    #expect(Self.next(leader) == .saved([SaveOutcome(key: Self.keys[1], kind: .sealed)]))
    #expect(store.sealed(Self.keys).count == 1)
  }

  @Test func `no packet stops a store, and whoever sends nonsense is cut off`() throws {
    let store = try Store()
    defer { store.stop() }
    var generator = Chance(seed: 11)
    let sound: [LocalMessage] = [
      .lookup(lease: 1, keys: Self.keys, isLast: true), .offer(batch: 1, keys: Self.keys),
      .staged([StagedBlock(slot: 900, key: Self.keys[0])]), .evict(1), .release(lease: 4),
      .commit([CommittedBlock(key: Self.keys[0], parent: nil, digests: [])]),
      .withdraw(Self.keys), .freed([1]), .saved([]), .pong(3),
    ]
    for round in 0..<400 {
      // Faster than the store takes them, they wait in its queue, which is bounded.
      var connected: LocalSocket?
      _ = comes {
        connected = try? LocalSocket.connect(store.path).get()
        return connected != nil
      }
      let socket = try #require(connected)
      if round % 2 == 0 {
        socket.send(
          .hello(
            LocalHello(
              engine: Self.engine, role: round % 4 == 0 ? .leader : .rank(round % 3),
              fingerprint: Self.fingerprint, stagingSlots: round,
              blockBytes: Self.bytes)))
      }
      var bytes = LocalCodec.encode(sound[round % sound.count])
      for _ in 0..<Int.random(in: 0...3, using: &generator) {
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      _ = send(socket.descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL | 0x40))
    }
    let leader = try Self.leader(store, Incarnation(high: 50, low: 50))
    leader.send(.ping(7))
    #expect(Self.next(leader) == .pong(7))
    #expect(
      comes {
        store.stats.pinned == 0 && store.stats.writing == 0
      })
  }

  @Test
  func `what is being copied from a rank that goes is sealed, and its memory ends after that`()
    throws
  {
    let count = Limits().stagingSlotsMax
    let blockBytes = 2 << 20
    let store = try Store(slots: count, blockBytes: blockBytes)
    defer { store.stop() }
    let leader = try Self.leader(store)
    defer { withExtendedLifetime(leader) {} }
    let keys = (0..<count).map { BlockKey(high: UInt64($0), low: 8) }
    do {
      let ranks = try (0..<2).map { try Self.rank($0, store, stagingSlots: count) }
      for (rank, pool) in ranks.enumerated() {
        for slot in 0..<count {
          memset(pool.link.pointer(to: UInt32(slot)), Int32(slot + rank), blockBytes)
        }
        _ = pool.link.send(
          .staged(keys.enumerated().map { StagedBlock(slot: UInt32($0), key: $1) }))
      }
      leader.send(.commit(keys.map { CommittedBlock(key: $0, parent: nil) }))
      // One of them is sealed, so all of them have been ordered.
      guard case .saved? = Self.next(leader) else {
        Issue.record("nothing was saved")
        return
      }
      withExtendedLifetime(ranks) {}
    }
    #expect(store.stats.sealed < count, "they went too late")
    #expect(comes { store.stats.sealed == count })
    let sealed = store.sealed(keys)
    for (place, key) in keys.enumerated() {
      let expected = (0..<2).map { rank in
        [UInt8](repeating: UInt8(place + rank), count: blockBytes).withUnsafeBytes {
          ContentDigest.of($0)
        }
      }
      #expect(sealed[key] == expected)
    }
  }

  @Test func `a leader that goes takes its pins and its staged blocks with it`() throws {
    let store = try Store()
    defer { store.stop() }
    do {
      let leader = try Self.leader(store)
      let ranks = try (0..<2).map { try Self.rank($0, store) }
      for rank in ranks { Self.stage(rank, 0, Self.keys[0], 1) }
      leader.send(.commit([CommittedBlock(key: Self.keys[0], parent: nil)]))
      #expect(Self.next(leader) == .saved([SaveOutcome(key: Self.keys[0], kind: .sealed)]))
      leader.send(.lookup(lease: 1, keys: [Self.keys[0]], isLast: true))
      #expect(comes { store.stats.pinned == 1 })
      withExtendedLifetime((leader, ranks)) {}
    }
    #expect(
      comes { store.stats.pinned == 0 && store.stats.leases == 0 })
  }
}

import RemoteG2Core
import Testing

/// The store's side of the local protocol, without sockets or memory.
@Suite struct `Local desk` {
  static let engine = Incarnation(high: 1, low: 1)
  static let start = LocalInstant(nanoseconds: 1)
  static let key = BlockKey(high: 4, low: 4)

  /// A desk of a store with two ranks, and one engine's connections to it.
  struct Room {
    var desk: LocalDesk
    var ledger: StoreLedger
    let leader: ConnectionID
    let ranks: [ConnectionID]
    static let fingerprint = Fingerprint(
      modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 2, numerics: "n")

    init(slots: Int = 4) {
      let store = Incarnation(high: 9, low: 9)
      desk = LocalDesk(
        store: store, fingerprint: Self.fingerprint, slotCount: slots, blockBytes: 64,
        limits: Limits())
      ledger = StoreLedger(
        incarnation: store, slotCount: slots, rankCount: 2, limits: Limits())
      leader = desk.joined() ?? ConnectionID(0)
      ranks = [desk.joined() ?? ConnectionID(0), desk.joined() ?? ConnectionID(0)]
      say(Self.hello(.leader), leader)
      for (rank, connection) in ranks.enumerated() { say(Self.hello(.rank(rank)), connection) }
    }

    static func hello(
      _ role: LocalHello.Role, version: UInt32 = LocalMessage.version,
      as fingerprint: Fingerprint = fingerprint
    ) -> LocalMessage {
      .hello(
        LocalHello(
          version: version, engine: engine, role: role, fingerprint: fingerprint,
          stagingSlots: 4))
    }

    @discardableResult
    mutating func say(_ message: LocalMessage, _ connection: ConnectionID) -> [LocalAction] {
      desk.received(message, from: connection, &ledger, at: start)
    }

    mutating func stage(_ rank: Int, slot: UInt32 = 0) -> [LocalAction] {
      say(.staged([StagedBlock(slot: slot, key: key)]), ranks[rank])
    }

    mutating func commit() -> [LocalAction] {
      say(.commit([CommittedBlock(key: key, parent: nil)]), leader)
    }
  }

  static func copy(_ actions: [LocalAction]) -> StageCopy? {
    for case .copy(let copy) in actions { return copy }
    return nil
  }

  @Test(arguments: [["0", "1", "c"], ["c", "0", "1"], ["0", "c", "1"], ["1", "c", "0"]])
  func `a block is not sealed before every rank has staged it and the leader has committed it`(
    order: [String]
  ) throws {
    var room = Room()
    var copies: [StageCopy?] = []
    for act in order {
      let actions = act == "c" ? room.commit() : room.stage(act == "0" ? 0 : 1, slot: 3)
      copies.append(Self.copy(actions))
    }
    #expect(copies.dropLast().allSatisfy { $0 == nil })
    let copy = try #require(copies.last ?? nil)
    #expect(
      copy.sources == room.ranks.map { StageSource(connection: $0, slot: 3) }
        && copy.generation == 1)
    #expect(room.ledger.stats.sealed == 0 && room.ledger.stats.writing == 1)
    let digests = [Digest128(high: 1, low: 1), Digest128(high: 2, low: 2)]
    let ended = room.desk.copied(copy, digests: digests, &room.ledger)
    #expect(room.ledger.stats.sealed == 1 && room.desk.stagedCount == 0)
    #expect(ended.contains(.send(room.ranks[1], .freed([3]))))
    #expect(
      ended.last == .send(room.leader, .saved([SaveOutcome(key: Self.key, kind: .sealed)])))
  }

  @Test(arguments: [true, false])
  func `a withdrawn block is staged by nobody, whichever message comes first`(isFirst: Bool) {
    var room = Room()
    room.say(.offer(batch: 1, keys: [Self.key]), room.leader)
    if isFirst { _ = room.stage(0) }
    room.say(.withdraw([Self.key]), room.leader)
    if !isFirst {
      let late = room.stage(0)
      #expect(late == [.send(room.ranks[0], .freed([0]))])
    }
    #expect(room.desk.stagedCount == 0)
    // Offered again, it is staged again.
    room.say(.offer(batch: 2, keys: [Self.key]), room.leader)
    _ = room.stage(0)
    #expect(room.desk.stagedCount == 1)
  }

  @Test func `what a rank staged ends with its connection, and its commit is answered`() {
    var room = Room()
    _ = room.stage(0)
    _ = room.commit()
    let actions = room.desk.left(room.ranks[0], &room.ledger, at: Self.start)
    #expect(
      actions == [.send(room.leader, .saved([SaveOutcome(key: Self.key, kind: .lost)]))])
    _ = room.stage(1)
    #expect(room.desk.stagedCount == 0)
  }

  @Test func `a rank that stages a slot it has not got back is cut off`() {
    var room = Room()
    #expect(room.stage(0, slot: 2).isEmpty)
    let other = StagedBlock(slot: 2, key: BlockKey(high: 5, low: 5))
    let actions = room.say(.staged([other]), room.ranks[0])
    #expect(actions == [.close(room.ranks[0])])
    #expect(room.desk.faults == 1 && room.desk.stagedCount == 1)
  }

  @Test func `a block withdrawn again long after its first withdrawal is still withdrawn`() {
    var room = Room()
    func other(_ number: Int) -> BlockKey { BlockKey(high: 7, low: UInt64(number)) }
    room.say(.withdraw([Self.key]), room.leader)
    room.say(.offer(batch: 1, keys: [Self.key]), room.leader)
    for number in 0..<(Limits().storeSavesInFlightMax * 4 - 1) {
      room.say(.withdraw([other(number)]), room.leader)
    }
    room.say(.withdraw([Self.key]), room.leader)
    // As many as push out the first withdrawal, and not the second.
    for number in 0..<4 { room.say(.withdraw([other(1_000_000 + number)]), room.leader) }
    #expect(room.stage(1) == [.send(room.ranks[1], .freed([0]))])
  }

  @Test func `a commit of what was there, and was evicted before it, is answered`() throws {
    var room = Room(slots: 1)
    func seal(_ key: BlockKey) {
      guard case .reserved(let slot, let generation) = room.ledger.pool.begin(key, after: nil)
      else { return }
      room.ledger.pool.seal(slot, generation: generation, digests: [nil, nil])
    }
    // Another engine's, sealed while ours stages it, and evicted by a third.
    seal(Self.key)
    for rank in 0..<2 {
      #expect(room.stage(rank) == [.send(room.ranks[rank], .freed([0]))])
    }
    seal(BlockKey(high: 8, low: 8))
    #expect(!room.ledger.pool.has(Self.key))
    #expect(
      room.commit() == [.send(room.leader, .saved([SaveOutcome(key: Self.key, kind: .lost)]))])
  }

  @Test(arguments: [1, 2, 5, 16, 64])
  func `the fullest page of found or of committed blocks fits a packet`(ranks: Int) {
    let count = LocalCodec.blocksPerPage(ranks: ranks)
    let digests = Array(repeating: Digest128(high: .max, low: .max), count: ranks)
    let grant = GrantedBlock(
      slot: SlotIndex(1), generation: .max, digests: digests.map { $0 })
    let found = LocalMessage.found(
      lease: .max, blocks: Array(repeating: grant, count: count), isLast: true)
    let block = CommittedBlock(key: Self.key, parent: Self.key, digests: digests)
    let commit = LocalMessage.commit(Array(repeating: block, count: count))
    for message in [found, commit] {
      let bytes = LocalCodec.encode(message).count
      #expect(bytes <= LocalCodec.bytesMax && bytes > LocalCodec.bytesMax / 4, "\(bytes) bytes")
    }
  }

  @Test func `two engines' halves of one block are never put together`() {
    var room = Room()
    _ = room.stage(0)
    let other = room.desk.joined() ?? ConnectionID(0)
    let hello = LocalHello(
      engine: Incarnation(high: 2, low: 2), role: .rank(1), fingerprint: Room.fingerprint,
      stagingSlots: 4)
    room.say(.hello(hello), other)
    let actions = room.say(.staged([StagedBlock(slot: 0, key: Self.key)]), other)
    #expect(Self.copy(actions + room.commit()) == nil)
  }

  @Test func `a rank gets staging memory within bounds, whatever it asks for`() {
    for (asked, given) in [(0, 1), (1, 1), (31, 31), (32, 32), (1000, 32), (-5, 1)] {
      var room = Room()
      let connection = room.desk.joined() ?? ConnectionID(0)
      let actions = room.say(
        .hello(
          LocalHello(
            engine: Self.engine, role: .rank(1), fingerprint: Room.fingerprint,
            stagingSlots: asked)), connection)
      guard case .welcomeRank(_, rank: 1, let welcome)? = actions.last else {
        Issue.record("\(actions)")
        continue
      }
      #expect(welcome.stagingSlots == given)
      // Its last slot is one of them, and the one after it is not.
      #expect(
        room.say(
          .staged([StagedBlock(slot: UInt32(given - 1), key: Self.key)]), connection) == [])
      #expect(
        room.say(.staged([StagedBlock(slot: UInt32(given), key: Self.key)]), connection)
          == [.close(connection)])
    }
  }

  @Test func `what became of a block is counted, and so is a message that makes no sense`() {
    var room = Room()
    _ = room.stage(0)
    _ = room.stage(1)
    guard let copy = Self.copy(room.commit()) else {
      Issue.record("nothing is copied")
      return
    }
    #expect(room.desk.stagedCount == 0 && room.desk.outcomes == [:])
    let digest = Digest128(high: 1, low: 1)
    _ = room.desk.copied(copy, digests: [digest, digest], &room.ledger)
    #expect(room.desk.outcomes == [.sealed: 1] && room.ledger.stats.sealed == 1)
    _ = room.commit()
    #expect(room.desk.outcomes == [.sealed: 1, .present: 1] && room.desk.faults == 0)
    let actions = room.say(.pong(1), room.leader)
    #expect(actions == [.close(room.leader)] && room.desk.faults == 1)
    #expect(room.desk.leaderCount == 1 && room.desk.connectionCount == 3)
    _ = room.desk.left(room.leader, &room.ledger, at: Self.start)
    #expect(room.desk.leaderCount == 0 && room.desk.connectionCount == 2)
  }

  @Test func `an engine of another kind, version or rank is refused by name`() {
    var room = Room()
    var strange = Room.fingerprint
    strange.numerics = "x"
    for (message, words) in [
      (Room.hello(.leader, as: strange), "numerics"),
      (Room.hello(.leader, version: 9), "protocol 9"),
      (Room.hello(.rank(7)), "rank 7"),
    ] {
      let connection = room.desk.joined() ?? ConnectionID(0)
      let actions = room.say(message, connection)
      guard case .send(_, .refused(let reason))? = actions.first else {
        Issue.record("it was not refused: \(actions)")
        continue
      }
      #expect(reason.contains(words) && actions.last == .close(connection))
    }
  }

  @Test func `a rank has other numerics than its leader, whose were compared`() {
    var room = Room()
    var other = Room.fingerprint
    other.numerics = "those of its own heads"
    let connection = room.desk.joined() ?? ConnectionID(0)
    let actions = room.say(Room.hello(.rank(1), as: other), connection)
    guard case .welcomeRank(connection, rank: 1, _)? = actions.last else {
      Issue.record("it was refused: \(actions)")
      return
    }
  }

  @Test func `a size is read from none to 2^48, and a rank from the leader to the 64th`() throws {
    func read(slots: Int) throws -> LocalMessage {
      let welcome = LocalWelcome(
        store: Self.engine, slotCount: slots, blockBytes: 0, rankCount: 3, stagingSlots: 4)
      return try LocalCodec.encode(.welcome(welcome)).withUnsafeBytes { try LocalCodec.decode($0) }
    }
    for slots in [0, 1 << 48] {
      guard case .welcome(let welcome) = try read(slots: slots) else { continue }
      #expect(welcome.slotCount == slots)
    }
    for slots in [-1, 1 << 48 + 1] {
      #expect(throws: WireError.unknown("size \(slots)")) { try read(slots: slots) }
    }
    func read(_ role: LocalHello.Role) throws -> LocalMessage {
      try LocalCodec.encode(Room.hello(role)).withUnsafeBytes { try LocalCodec.decode($0) }
    }
    for role in [LocalHello.Role.leader, .rank(0), .rank(63)] {
      #expect(try read(role) == Room.hello(role))
    }
    for rank in [-2, 64] {
      #expect(throws: WireError.unknown("rank \(rank)")) { try read(.rank(rank)) }
    }
  }

  @Test func `every message is read as it was written, and nothing else is`() throws {
    let digest = Digest128(high: 3, low: 4)
    let messages: [LocalMessage] = [
      Room.hello(.rank(1)), .lookup(lease: 1, keys: [Self.key], isLast: false), .release(lease: 2),
      .offer(batch: 3, keys: [Self.key]), .staged([StagedBlock(slot: 1, key: Self.key)]),
      .commit([
        CommittedBlock(key: Self.key, parent: Self.key, digests: [digest]),
        CommittedBlock(key: Self.key, parent: nil),
      ]), .withdraw([Self.key]), .evict(4), .stats(5), .ping(6),
      .welcome(
        LocalWelcome(
          store: Self.engine, slotCount: 1, blockBytes: 2, rankCount: 3, stagingSlots: 4)),
      .refused("no"),
      .found(
        lease: 7,
        blocks: [GrantedBlock(slot: SlotIndex(1), generation: 2, digests: [digest, nil])],
        isLast: true),
      .notFound(lease: 8, .overBudget), .wanted(batch: 9, [1, 2]), .freed([3]),
      .saved([SaveOutcome(key: Self.key, kind: .lost)]), .evicted(10, count: 11),
      .statsAnswer(12, StoreStats()), .pong(13),
    ]
    for message in messages {
      let bytes = LocalCodec.encode(message)
      let read = try bytes.withUnsafeBytes { try LocalCodec.decode($0) }
      #expect(read == message)
      for count in 0..<bytes.count {
        #expect(throws: WireError.self, "\(message) cut to \(count)") {
          try bytes[..<count].withUnsafeBytes { try LocalCodec.decode($0) }
        }
      }
      #expect(throws: WireError.trailing(1)) {
        try (bytes + [0]).withUnsafeBytes { try LocalCodec.decode($0) }
      }
    }
    // Whatever comes is a message or an error.
    var generator = TestGenerator(seed: 3)
    for _ in 0..<20_000 {
      var bytes = LocalCodec.encode(messages.randomElement(using: &generator) ?? .ping(1))
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(
          in: 0...255, using: &generator)
      }
      _ = bytes.withUnsafeBytes { try? LocalCodec.decode($0) }
    }
  }
}

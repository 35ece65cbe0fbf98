/// A connection of an engine to its store. Never reused.
public struct ConnectionID: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let value: UInt64
  public init(_ value: UInt64) { self.value = value }
  public static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  public var description: String { "connection \(value)" }
}

/// One block to be copied from what all ranks staged into a slot of the store's pools.
package struct StageCopy: Equatable, Sendable {
  package let engine: Incarnation
  package let key: BlockKey
  package let slot: SlotIndex
  package let generation: UInt32
  /// By rank: whose staging memory, and which slot of it.
  package let sources: [StageSource]
  /// The digests that the copy must have, one per rank; nil for a block that was computed here.
  package let expected: [Digest128]?

  package init(
    engine: Incarnation, key: BlockKey, slot: SlotIndex, generation: UInt32,
    sources: [StageSource], expected: [Digest128]?
  ) {
    self.engine = engine
    self.key = key
    self.slot = slot
    self.generation = generation
    self.sources = sources
    self.expected = expected
  }
}

package struct StageSource: Hashable, Sendable {
  package let connection: ConnectionID
  package let slot: UInt32

  package init(connection: ConnectionID, slot: UInt32) {
    self.connection = connection
    self.slot = slot
  }
}

/// A prefix that an engine wants to load, and that may be fetched for it.
package struct WantedPrefix: Equatable, Sendable {
  package let connection: ConnectionID
  package let engine: Incarnation
  /// Of the lease that the answer is given under.
  package let serial: UInt64
  package let keys: [BlockKey]
  /// What computing one block takes there; zero: not known.
  package let pace: Duration
}

/// What a ``LocalDesk`` orders, to be carried out in the order given.
package enum LocalAction: Equatable, Sendable {
  case send(ConnectionID, LocalMessage)
  /// Make a rank's staging memory and send its welcome with it and with its pool.
  case welcomeRank(ConnectionID, rank: Int, LocalWelcome)
  /// Answered by ``LocalDesk/copied(_:digests:_:)``. Until then the staging memory that it reads stays.
  case copy(StageCopy)
  /// Answered by ``LocalDesk/answer(_:_:at:)``, at once or when what the store lacks has been fetched.
  case want(WantedPrefix)
  /// Nothing more is read from it, or sent to it.
  case close(ConnectionID)
}

/// The store's side of the local protocol: who is connected, what is staged, what is committed.
///
/// Pure: the shell owns sockets and memory, carries out the actions, and gives the messages and the
/// ledger. A block is sealed when the engine's leader committed it and every rank of that engine staged
/// it; whatever is not, ends with its connection.
package struct LocalDesk: Sendable {
  enum Role: Equatable, Sendable {
    /// It has not said who it is.
    case stranger
    case leader(Incarnation)
    case rank(Incarnation, Int, stagingSlots: Int)
  }

  /// The connections of one engine, and what came over them.
  struct Engine: Sendable {
    var leader: ConnectionID?
    var ranks: [ConnectionID?]
    /// By key: where each rank has it.
    var staged: [BlockKey: [UInt32?]] = [:]
    var committed: [BlockKey: CommittedBlock] = [:]
    /// Being copied.
    var copying: Set<BlockKey> = []
    /// Given up since they were last offered: a rank's copy may still be on its way.
    var withdrawn: RecentKeys
    var leases: Set<LeaseID> = []
    /// Pages of a question that is not whole yet.
    var asked: [UInt64: [BlockKey]] = [:]
    var isEmpty: Bool { leader == nil && ranks.allSatisfy { $0 == nil } }
  }

  let store: Incarnation
  let fingerprint: Fingerprint
  let slotCount: Int
  let blockBytes: Int
  let limits: Limits
  var connections: [ConnectionID: Role] = [:]
  var engines: [Incarnation: Engine] = [:]
  private var connectionNext: UInt64 = 1
  /// The slots of ranks' staging memory that were staged and not yet given back, by connection.
  private var slotsInUse: [ConnectionID: Set<UInt32>] = [:]
  /// Messages that no engine of this version sends.
  package private(set) var faults: UInt64 = 0
  /// What became of committed blocks.
  package private(set) var outcomes: [SaveOutcome.Kind: Int] = [:]

  var rankCount: Int { Int(fingerprint.rankCount) }

  package init(
    store: Incarnation, fingerprint: Fingerprint, slotCount: Int, blockBytes: Int, limits: Limits
  ) {
    self.store = store
    self.fingerprint = fingerprint
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.limits = limits
  }

  package var connectionCount: Int { connections.count }
  /// Engines whose leader is connected.
  package var leaderCount: Int { engines.values.count { $0.leader != nil } }
  /// Blocks that some rank has staged and that are not in the pool.
  package var stagedCount: Int { engines.values.reduce(0) { $0 + $1.staged.count } }

  // MARK: Events

  /// Somebody connected. Nil: there is no room, and the socket is closed at once.
  package mutating func joined() -> ConnectionID? {
    guard connections.count < limits.localConnectionsMax else { return nil }
    let id = ConnectionID(connectionNext)
    connectionNext += 1
    connections[id] = .stranger
    return id
  }

  /// A connection that somebody else has counted and named.
  package mutating func joined(as id: ConnectionID) { connections[id] = .stranger }

  /// Whether this engine has a connection here.
  package func knows(_ engine: Incarnation) -> Bool { engines[engine] != nil }

  /// A connection ended, whoever ended it.
  package mutating func left(
    _ connection: ConnectionID, _ ledger: inout StoreLedger, at now: LocalInstant
  ) -> [LocalAction] {
    guard let role = connections.removeValue(forKey: connection) else { return [] }
    slotsInUse[connection] = nil
    switch role {
    case .stranger: return []
    case .leader(let id):
      guard engines[id]?.leader == connection else { return [] }
      let leases = (engines[id]?.leases ?? []).sorted { $0.serial < $1.serial }
      for lease in leases { _ = ledger.release(lease, at: now) }
      engines[id]?.leader = nil
      engines[id]?.leases = []
      engines[id]?.asked = [:]
      engines[id]?.committed = [:]
      let keys = engines[id].map { Array($0.staged.keys).sorted() } ?? []
      let actions = drop(keys, of: id)
      forgetIfEmpty(id)
      return actions
    case .rank(let id, let rank, _):
      guard engines[id]?.ranks[rank] == connection else { return [] }
      engines[id]?.ranks[rank] = nil
      // What is being copied is read from memory that stays until it is copied.
      // What this rank had staged, and what others have and it may never have told: nobody will say so now.
      let keys = Set((engines[id]?.staged ?? [:]).keys).union((engines[id]?.committed ?? [:]).keys)
      for key in keys where engines[id]?.staged[key] != nil {
        engines[id]?.staged[key]?[rank] = nil
      }
      let actions = drop(keys.sorted(), of: id)
      forgetIfEmpty(id)
      return actions
    }
  }

  /// A packet that is no message.
  package mutating func malformed(_ connection: ConnectionID) -> [LocalAction] {
    faults += 1
    return [.close(connection)]
  }

  package mutating func received(
    _ message: LocalMessage, from connection: ConnectionID, _ ledger: inout StoreLedger,
    at now: LocalInstant
  ) -> [LocalAction] {
    // A packet that was read before its connection was closed by an action.
    guard let role = connections[connection] else { return [] }
    switch (message, role) {
    case (.hello(let hello), .stranger): return greeted(hello, connection, &ledger, at: now)
    case (.ping(let id), _): return [.send(connection, .pong(id))]
    case (.staged(let blocks), .rank(let id, let rank, let slots)):
      return staged(blocks, id, rank, slots, connection, &ledger)
    case (.lookup(let lease, let keys, let isLast), .leader(let id)):
      return page(lease, keys, isLast, id, connection) { desk, all in
        desk.answer(
          WantedPrefix(
            connection: connection, engine: id, serial: lease, keys: all, pace: .zero),
          &ledger, at: now)
      }
    case (.want(let lease, let keys, let isLast, let pace), .leader(let id)):
      return page(lease, keys, isLast, id, connection) { _, all in
        [
          .want(
            WantedPrefix(
              connection: connection, engine: id, serial: lease, keys: all, pace: pace))
        ]
      }
    case (.release(let serial), .leader(let id)):
      let lease = LeaseID(serial: serial, owner: store, holder: id)
      engines[id]?.asked[serial] = nil
      engines[id]?.leases.remove(lease)
      _ = ledger.release(lease, at: now)
      return []
    case (.offer(let batch, let keys), .leader(let id)):
      for key in keys { engines[id]?.withdrawn.remove(key) }
      let lacking = keys.indices.filter { place in
        let key = keys[place]
        return !ledger.pool.has(key) && engines[id]?.staged[key] == nil
      }
      return [.send(connection, .wanted(batch: batch, lacking.map { UInt32($0) }))]
    case (.commit(let blocks), .leader(let id)):
      guard blocks.allSatisfy({ $0.digests.map { $0.count == rankCount } ?? true }) else {
        return malformed(connection)
      }
      return committed(blocks, id, connection, &ledger)
    case (.withdraw(let keys), .leader(let id)):
      for key in keys { engines[id]?.committed[key] = nil }
      return drop(keys.filter { engines[id]?.copying.contains($0) == false }, of: id)
    case (.evict(let id), .leader):
      return [.send(connection, .evicted(id, count: ledger.pool.evictUnpinned()))]
    case (.stats(let id), .leader):
      var stats = ledger.stats
      stats.staged = stagedCount
      return [.send(connection, .statsAnswer(id, stats))]
    default: return malformed(connection)
    }
  }

  /// A copy has ended.
  ///
  /// - Parameter digests: Of the slots' bytes, by rank; nil when they are not those expected.
  package mutating func copied(
    _ copy: StageCopy, digests: [Digest128]?, _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    if let digests {
      ledger.pool.seal(copy.slot, generation: copy.generation, digests: digests)
    } else {
      ledger.pool.abandon(copy.slot, generation: copy.generation)
    }
    engines[copy.engine]?.copying.remove(copy.key)
    var actions: [LocalAction] = []
    for source in copy.sources where connections[source.connection] != nil {
      actions.append(free(source.slot, of: source.connection))
    }
    actions += tell(copy.key, digests == nil ? .wrongBytes : .sealed, to: copy.engine)
    forgetIfEmpty(copy.engine)
    return actions
  }

  // MARK: Saving

  private mutating func staged(
    _ blocks: [StagedBlock], _ id: Incarnation, _ rank: Int, _ slots: Int,
    _ connection: ConnectionID, _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    var actions: [LocalAction] = []
    for block in blocks {
      // A slot of its memory, and one that it may write now.
      guard block.slot < UInt32(clamping: slots),
        slotsInUse[connection]?.contains(block.slot) != true
      else { return actions + malformed(connection) }
      // Staged twice, or while its copy is under way: the newer is not needed.
      // Or it came after its block was given up, or its leader was gone: the connections are several.
      let isKnown = engines[id]?.staged[block.key]?[rank] != nil
      let isOver = engines[id]?.leader == nil || engines[id]?.withdrawn.contains(block.key) == true
      if isKnown || isOver || engines[id]?.copying.contains(block.key) == true
        || ledger.pool.has(block.key)
      {
        actions.append(.send(connection, .freed([block.slot])))
        // Evicted again before its commit comes, it would wait for bytes that nobody stages.
        if ledger.pool.has(block.key) { engines[id]?.withdrawn.insert(block.key) }
        continue
      }
      var places = engines[id]?.staged[block.key] ?? Array(repeating: nil, count: rankCount)
      places[rank] = block.slot
      slotsInUse[connection, default: []].insert(block.slot)
      engines[id]?.staged[block.key] = places
      actions += trySeal(block.key, of: id, &ledger)
    }
    return actions
  }

  private mutating func committed(
    _ blocks: [CommittedBlock], _ id: Incarnation, _ connection: ConnectionID,
    _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    var actions: [LocalAction] = []
    for block in blocks {
      if ledger.pool.has(block.key) {
        actions += drop([block.key], of: id, isWithdrawn: false) + tell(block.key, .present, to: id)
        continue
      }
      // What a rank had staged of it is gone.
      if engines[id]?.withdrawn.contains(block.key) == true {
        actions += tell(block.key, .lost, to: id)
        continue
      }
      // Bounded by what can be staged, and by an engine that has only so many saves in flight.
      guard (engines[id]?.committed.count ?? 0) < limits.storeSavesInFlightMax * 2 else {
        actions += drop([block.key], of: id) + tell(block.key, .full, to: id)
        continue
      }
      engines[id]?.committed[block.key] = block
      actions += trySeal(block.key, of: id, &ledger)
    }
    return actions
  }

  /// Takes a slot for a block that is committed and that every rank has staged.
  private mutating func trySeal(
    _ key: BlockKey, of id: Incarnation, _ ledger: inout StoreLedger
  ) -> [LocalAction] {
    guard let engine = engines[id], let block = engine.committed[key],
      let places = engine.staged[key], places.allSatisfy({ $0 != nil })
    else { return [] }
    var sources: [StageSource] = []
    for (rank, place) in places.enumerated() {
      guard let slot = place, let connection = engine.ranks[rank] else { return [] }
      sources.append(StageSource(connection: connection, slot: slot))
    }
    switch ledger.pool.begin(key, after: block.parent) {
    case .reserved(let slot, let generation):
      engines[id]?.committed[key] = nil
      engines[id]?.staged[key] = nil
      engines[id]?.copying.insert(key)
      return [
        .copy(
          StageCopy(
            engine: id, key: key, slot: slot, generation: generation, sources: sources,
            expected: block.digests))
      ]
    case .present:
      engines[id]?.committed[key] = nil
      return drop([key], of: id) + tell(key, .present, to: id)
    case .full:
      engines[id]?.committed[key] = nil
      return drop([key], of: id) + tell(key, .full, to: id)
    }
  }

  /// These will not be sealed: what ranks have staged of them may be written again. A commit that can
  /// not be carried out any more is answered.
  ///
  /// - Parameter isWithdrawn: What a rank still stages of them is to be refused.
  private mutating func drop(
    _ keys: [BlockKey], of id: Incarnation, isWithdrawn: Bool = true
  ) -> [LocalAction] {
    var actions: [LocalAction] = []
    for key in keys {
      if isWithdrawn { engines[id]?.withdrawn.insert(key) }
      let places = engines[id]?.staged.removeValue(forKey: key) ?? []
      for (rank, place) in places.enumerated() {
        guard let place, let connection = engines[id]?.ranks[rank] else { continue }
        actions.append(free(place, of: connection))
      }
      if engines[id]?.committed.removeValue(forKey: key) != nil {
        actions += tell(key, .lost, to: id)
      }
    }
    return actions
  }

  /// The rank may write this slot of its staging memory again.
  private mutating func free(_ slot: UInt32, of connection: ConnectionID) -> LocalAction {
    slotsInUse[connection]?.remove(slot)
    return .send(connection, .freed([slot]))
  }

  private mutating func tell(
    _ key: BlockKey, _ kind: SaveOutcome.Kind, to id: Incarnation
  ) -> [LocalAction] {
    outcomes[kind, default: 0] += 1
    guard let leader = engines[id]?.leader else { return [] }
    return [.send(leader, .saved([SaveOutcome(key: key, kind: kind)]))]
  }

  mutating func forgetIfEmpty(_ id: Incarnation) {
    if engines[id]?.isEmpty == true, engines[id]?.copying.isEmpty == true { engines[id] = nil }
  }
}

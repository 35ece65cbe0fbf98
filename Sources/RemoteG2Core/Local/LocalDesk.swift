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

  /// A block that ranks have staged.
  struct Staged: Sendable {
    /// Where each rank has it.
    var places: [UInt32?]
    /// In which they have.
    let step: UInt64
  }

  /// The connections of one engine, and what came over them.
  struct Engine: Sendable {
    var leader: ConnectionID?
    var ranks: [ConnectionID?]
    /// The first step in which each rank may stage over its connection.
    var firstSteps: [UInt64]
    var staged: [BlockKey: Staged] = [:]
    /// What is staged in steps up to this, and not committed, is not kept.
    var settledThrough: UInt64 = 0
    /// The last step in which a rank staged it and was given its slot back at once.
    var turnedAway: [BlockKey: UInt64] = [:]
    /// Of steps up to this, more was turned away than is remembered.
    var lostThrough: UInt64 = 0
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
  var slotsInUse: [ConnectionID: Set<UInt32>] = [:]
  /// Messages that no engine of this version sends.
  package private(set) var faults: UInt64 = 0
  /// What became of committed blocks.
  package internal(set) var outcomes: [SaveOutcome.Kind: Int] = [:]

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

  /// Blocks that are committed and wait for a rank's bytes.
  package var committedCount: Int { engines.values.reduce(0) { $0 + $1.committed.count } }

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
      engines[id]?.turnedAway = [:]
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
      for key in keys { engines[id]?.staged[key]?.places[rank] = nil }
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
    case (.settled(let step), .leader(let id)): return settle(id, through: step)
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

  mutating func forgetIfEmpty(_ id: Incarnation) {
    if engines[id]?.isEmpty == true, engines[id]?.copying.isEmpty == true { engines[id] = nil }
  }
}

/// All that a node decides: pools by fingerprint, its own engines, what other members announce, what is pulled
/// from whom, and who waits for it.
///
/// Pure. The shells own sockets, memory and the clock; several threads give their events, under one lock, and
/// carry out the actions. Bytes are moved outside the lock, into slots that only one thread knows.
package struct NodeCore: Sendable {
  package let node: Incarnation
  package let name: PeerName
  package let limits: Limits
  let memoryBytes: Int
  var pools: [PoolNumber: NodePool] = [:]
  /// Pools whose memory is being made, with the greetings that wait for it.
  var making: [PoolNumber: (terms: PoolTerms, slots: Int, hellos: [(ConnectionID, LocalHello)])] =
    [:]
  /// Connections by the pool that they use; nil: it has not said who it is.
  var connections: [ConnectionID: PoolNumber?] = [:]
  /// Until when those that have not said who they are may do so.
  private var strangers: [ConnectionID: LocalInstant] = [:]
  var members: [PeerName: MemberState] = [:]
  var index: HolderIndex
  var feed: Feed
  /// What this node's own pools have and have no more, since it was last taken.
  private var ownChanges: [FeedChange] = []
  /// Whether some watcher has heard everything so far.
  var watchersWaiting = false
  /// Whether the feed has something for who is waiting, and nobody was woken for it.
  private var hasUntold = false
  /// Rises whenever a pool comes or goes.
  var poolsVersion: UInt64 = 0
  var waiters: [Waiter.ID: Waiter] = [:]
  var spans: [StreamID: Span] = [:]
  /// Whether pools can be read by peers themselves, over NIXL.
  var hasAgents: Bool
  /// Whether somebody keeps the pools beyond this process.
  let hasKeeper: Bool
  /// What was taken over from the process before; nil where nobody keeps anything.
  package var adopting: AdoptionReport?
  var agents: [PoolNumber: PoolAgent] = [:]
  package internal(set) var agentsLost = 0
  package var handshakes = HandshakeLog()
  /// It answers no new question of a member, and ends once those are answered that there are.
  package var isLeaving = false
  /// Nobody is being sent anything or reads by himself, and nobody waits.
  package var isDrained: Bool {
    servedCount == 0 && waiters.isEmpty && pools.values.allSatisfy { $0.peerLeases == 0 }
  }
  var servedCount = 0
  /// To whom and since when, by the last key of what was asked for.
  var servedTo: [BlockKey: [(reader: PeerName, since: LocalInstant)]] = [:]
  /// Pins that streams to other members hold.
  package internal(set) var servedPins = 0
  package internal(set) var shortfalls: [NodeShortfall: Int] = [:]
  package internal(set) var blocksPulled: UInt64 = 0
  package internal(set) var bytesPulled: UInt64 = 0
  package internal(set) var bytesServed: UInt64 = 0
  package internal(set) var blocksAnswered: UInt64 = 0
  private var connectionNext: UInt64 = 1
  var poolNext = 1
  private var streamNext: UInt64 = 1

  package init(
    node: Incarnation, name: PeerName, members: [PeerName], memoryBytes: Int, limits: Limits,
    hasAgents: Bool = false, hasKeeper: Bool = false,
    secret: Incarnation = Incarnation(high: 0, low: 0)
  ) {
    self.hasAgents = hasAgents
    self.hasKeeper = hasKeeper
    self.node = node
    self.name = name
    self.memoryBytes = memoryBytes
    self.limits = limits
    index = HolderIndex(keysMax: limits.indexKeysMax, seed: secret)
    feed = Feed(changesMax: limits.feedChangesMax)
    for member in members { self.members[member] = MemberState() }
  }

  // MARK: Own engines

  /// Somebody connected. Nil: there is no room, and the socket is closed at once.
  package mutating func joined(at now: LocalInstant) -> ConnectionID? {
    guard connections.count < limits.localConnectionsMax else { return nil }
    let id = ConnectionID(connectionNext)
    connectionNext += 1
    connections[id] = .some(nil)
    strangers[id] = now + limits.strangerMax
    return id
  }

  /// A connection ended, whoever ended it.
  package mutating func left(_ connection: ConnectionID, at now: LocalInstant) -> [NodeAction] {
    strangers[connection] = nil
    guard let found = connections.removeValue(forKey: connection), let number = found else {
      for number in making.keys {
        making[number]?.hellos.removeAll { $0.0 == connection }
      }
      return []
    }
    var actions = dropWaiters(of: connection, at: now)
    actions += withPool(number) { $0.desk.left(connection, &$0.ledger, at: now) }
    return actions + news()
  }

  /// A packet that is no message.
  package mutating func malformed(_ connection: ConnectionID) -> [NodeAction] {
    guard let number = connections[connection] ?? nil else {
      return [.local(.close(connection), pool: nil)]
    }
    return withPool(number) { $0.desk.malformed(connection) }
  }

  package mutating func received(
    _ message: LocalMessage, from connection: ConnectionID, at now: LocalInstant
  ) -> [NodeAction] {
    // A packet that was read before its connection was closed by an action.
    guard let found = connections[connection] else { return [] }
    guard let number = found else {
      // One that says hello twice while its pool is being made is no engine of this version.
      guard case .hello(let hello) = message,
        !making.values.contains(where: { $0.hellos.contains { $0.0 == connection } })
      else { return [.local(.close(connection), pool: nil)] }
      strangers[connection] = nil
      return greeted(hello, connection, at: now)
    }
    if case .release(let serial) = message {
      let ids = waiters.values.filter {
        $0.wanted.connection == connection && $0.wanted.serial == serial
      }.map(\.id)
      let actions = ids.sorted().flatMap { forget($0) }
      return actions
        + withPool(number) { $0.desk.received(message, from: connection, &$0.ledger, at: now) }
    }
    let actions = withPool(number) {
      $0.desk.received(message, from: connection, &$0.ledger, at: now)
    }
    return carry(actions, at: now) + news()
  }

  /// A copy has ended.
  package mutating func copied(
    _ copy: StageCopy, in number: PoolNumber, digests: [Digest128]?
  ) -> [NodeAction] {
    withPool(number) { $0.desk.copied(copy, digests: digests, &$0.ledger) } + news()
  }

  // MARK: Pools

  private mutating func greeted(
    _ hello: LocalHello, _ connection: ConnectionID, at now: LocalInstant
  ) -> [NodeAction] {
    // A rank joins its engine's pool, whatever bits it has computed itself.
    if let number = pools.first(where: { $0.value.desk.knows(hello.engine) })?.key {
      return enter(hello, connection, number, at: now)
    }
    let terms = PoolTerms(fingerprint: hello.fingerprint, blockBytes: hello.blockBytes)
    if let number = pools.first(where: { $0.value.terms == terms })?.key {
      return enter(hello, connection, number, at: now)
    }
    if let number = making.first(where: { $0.value.terms == terms })?.key {
      making[number]?.hellos.append((connection, hello))
      return []
    }
    func refuse(_ reason: String) -> [NodeAction] {
      connections[connection] = nil
      return [
        .local(.send(connection, .refused(reason)), pool: nil),
        .local(.close(connection), pool: nil),
      ]
    }
    guard hello.version == LocalMessage.version else {
      return refuse(
        "local protocol \(hello.version); this node speaks \(LocalMessage.version): "
          + "run both from one release")
    }
    // It comes once more, after its leader.
    guard case .leader = hello.role else { return refuse("the node does not know its engine") }
    guard hello.blockBytes > 0, hello.fingerprint.rankCount >= 1, hello.fingerprint.rankCount <= 64
    else { return refuse("the engine does not say how large its blocks are on how many ranks") }
    // Who has gone for good makes room for who comes.
    let idle = pools.keys.filter { isIdle($0, at: now) }.min {
      // Which peers read goes last.
      (stats(of: $0)?.leases ?? 0, $0) < (stats(of: $1)?.leases ?? 0, $1)
    }
    let dropped = idle.map { drop($0) } ?? []
    let free = memoryBytes - bytesInUse
    let slots = min(free / terms.bytesOfAllRanks, limits.slotsMax)
    guard slots >= 1 else {
      return dropped
        + refuse(
          "a block of this engine takes \(terms.bytesOfAllRanks) bytes, and \(max(0, free)) of the "
            + "node's \(memoryBytes) are free: raise --memory, or give it a node of its own")
    }
    let number = PoolNumber(poolNext)
    poolNext += 1
    making[number] = (terms, slots, [(connection, hello)])
    return dropped + [.makePool(number, terms, slotCount: slots)]
  }

  /// The memory of a pool is there, or cannot be had.
  ///
  /// - Parameter id: Drawn for it; nil: why there is none.
  package mutating func poolMade(
    _ number: PoolNumber, _ id: Result<Incarnation, PoolFailure>, at now: LocalInstant
  ) -> [NodeAction] {
    guard let made = making.removeValue(forKey: number) else { return [] }
    switch id {
    case .failure(let failure):
      return made.hellos.flatMap { connection, _ -> [NodeAction] in
        connections[connection] = nil
        return [
          .local(.send(connection, .refused(failure.reason)), pool: nil),
          .local(.close(connection), pool: nil),
        ]
      }
    case .success(let id):
      pools[number] = newPool(id, made.terms, slots: made.slots)
      poolsVersion += 1
      return made.hellos.flatMap { enter($1, $0, number, at: now) } + [.feedChanged]
        + beginAgent(number, id, at: now)
    }
  }

  private func isIdle(_ number: PoolNumber, at now: LocalInstant) -> Bool {
    guard let place = pools.index(forKey: number) else { return false }
    return pools.values[place].desk.connectionCount == 0
      && pools.values[place].isAwaitedUntil ?? now <= now
  }

  func newPool(_ id: Incarnation, _ terms: PoolTerms, slots: Int) -> NodePool {
    NodePool(
      terms: terms,
      desk: LocalDesk(
        store: id, fingerprint: terms.fingerprint, slotCount: slots, blockBytes: terms.blockBytes,
        limits: limits),
      ledger: StoreLedger(
        incarnation: id, slotCount: slots, rankCount: terms.rankCount, limits: limits,
        tellsChanges: true, hasTable: hasKeeper))
  }

  private mutating func enter(
    _ hello: LocalHello, _ connection: ConnectionID, _ number: PoolNumber, at now: LocalInstant
  ) -> [NodeAction] {
    connections[connection] = number
    return withPool(number) {
      $0.isAwaitedUntil = nil
      $0.desk.joined(as: connection)
      return $0.desk.received(.hello(hello), from: connection, &$0.ledger, at: now)
    }
  }

  private mutating func drop(_ number: PoolNumber) -> [NodeAction] {
    guard var pool = pools.removeValue(forKey: number) else { return [] }
    poolsVersion += 1
    // What a pull evicted for a block that is still arriving has not been told yet.
    let changes =
      pool.ledger.pool.takeChanges()
      + pool.ledger.pool.sealedKeys(in: 0..<pool.ledger.pool.slotCount).map {
        FeedChange(key: $0, isSealed: false)
      }
    feed.note(changes)
    ownChanges += changes
    return agents.removeValue(forKey: number).map { _ in [.endAgent(number)] } ?? []
  }

  /// Of the keys that this node has or some member announces: which became such since the last call, once more
  /// for each who has it, and which ceased to be. Engines look them up before they ask.
  package mutating func takeKnownChanges() -> [FeedChange] {
    var taken = index.takeChanges()
    taken += ownChanges
    ownChanges = []
    return taken
  }

  var bytesInUse: Int {
    pools.values.reduce(0) { $0 + $1.ledger.pool.slotCount * $1.terms.bytesOfAllRanks }
      + making.values.reduce(0) { $0 + $1.slots * $1.terms.bytesOfAllRanks }
  }

  /// Everything that is sealed, in all pools.
  package var sealedKeys: Set<BlockKey> {
    Set(pools.values.flatMap { $0.ledger.pool.sealedKeys(in: 0..<$0.ledger.pool.slotCount) })
  }
  /// What counts as announced by a member.
  package func keysAnnounced(by member: PeerName) -> Set<BlockKey> { index.keys(of: member) }
  /// What counts as announced, by member.
  package var keysOfMembers: [Set<BlockKey>] { members.keys.sorted().map { index.keys(of: $0) } }
  /// Blocks that are committed and wait for a rank's bytes.
  package var committedCount: Int { pools.values.reduce(0) { $0 + $1.desk.committedCount } }
  package func phase(of slot: SlotIndex, in pool: PoolNumber) -> SlotPool.Phase? {
    pools.index(forKey: pool).map { pools.values[$0].ledger.pool.phase(of: slot) }
  }

  package func stats(of pool: PoolNumber) -> StoreStats? {
    pools.index(forKey: pool).map { pools.values[$0].ledger.stats }
  }
  package func standing(of member: PeerName) -> MemberState.Standing? { members[member]?.standing }
  /// Questions of own engines that are not answered, and answers that members are sending.
  package var openCounts: (questions: Int, pulls: Int) { (waiters.count, spans.count) }
  package var poolNumbers: Set<PoolNumber> { Set(pools.keys).union(making.keys) }

  // MARK: Time

  /// Ends what is due.
  package mutating func timePassed(at now: LocalInstant) -> [NodeAction] {
    var actions: [NodeAction] = []
    for id in waiters.values.filter({ $0.deadline <= now }).map(\.id).sorted() {
      actions += answer(id, .outpaced, at: now)
    }
    actions += lookAgain(at: now)
    index.timePassed()
    // Not over the keys themselves: they would hold on to the pools, and each that changes would be copied.
    for number in pools.keys.sorted() { inPool(number) { $0.ledger.expireDue(at: now) } }
    for id in strangers.filter({ $0.value <= now }).keys.sorted() {
      strangers[id] = nil
      connections[id] = nil
      actions.append(.local(.close(id), pool: nil))
    }
    return actions + turnAgents(at: now)
  }

  package var nextDeadline: LocalInstant? {
    let waiting = waiters.values.map { min($0.deadline, $0.looksAgainAt ?? $0.deadline) }.min()
    let leases = pools.values.compactMap(\.ledger.nextDeadline).min()
    // Work that is left to do is due at once.
    let sweep = index.isSweeping ? LocalInstant(nanoseconds: 0) : nil
    return [sweep, waiting, leases, strangers.values.min(), nextAgentAt].compactMap { $0 }.min()
  }

  // MARK: Within

  /// Carries out what is the core's own business of these.
  private mutating func carry(_ actions: [NodeAction], at now: LocalInstant) -> [NodeAction] {
    var left: [NodeAction] = []
    for action in actions {
      guard case .local(.want(let wanted), let number?) = action else {
        left.append(action)
        continue
      }
      left += want(wanted, number, at: now)
    }
    return left
  }

  /// What pools have sealed and evicted becomes the feed's.
  mutating func news() -> [NodeAction] {
    var changes: [FeedChange] = []
    for number in pools.keys.sorted() {
      changes += inPool(number) { $0.ledger.pool.takeChanges() } ?? []
    }
    return tell(changes)
  }

  /// What one pool has.
  ///
  /// - Parameter wakes: Whether watchers are woken for it; otherwise they hear it with what comes next.
  mutating func news(of number: PoolNumber, wakes: Bool) -> [NodeAction] {
    tell(inPool(number) { $0.ledger.pool.takeChanges() } ?? [], wakes: wakes)
  }

  private mutating func tell(_ changes: [FeedChange], wakes: Bool = true) -> [NodeAction] {
    if !changes.isEmpty {
      for change in changes where !change.isSealed && !index.isAnnounced(change.key) {
        noteEvicted(change)
      }
      feed.note(changes)
      ownChanges += changes
      hasUntold = true
    }
    // Nobody is woken who has not heard everything yet, or who is not there.
    guard wakes, hasUntold, watchersWaiting else { return [] }
    watchersWaiting = false
    hasUntold = false
    return [.feedChanged]
  }

  mutating func nextStream() -> StreamID {
    defer { streamNext += 1 }
    return StreamID(streamNext)
  }
}

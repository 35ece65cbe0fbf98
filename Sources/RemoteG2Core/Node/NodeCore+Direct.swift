/// A process that peers read one pool from by themselves: it maps the pool for reading, and answers them without
/// the node. When it ends, another takes its place, under another name.
struct PoolAgent: Sendable {
  enum Phase: Sendable, CustomStringConvertible {
    case starting
    /// It was not ready in time, and its end is ordered.
    case ending
    /// What peers need, by rank.
    case serving([RankPool])
    /// The last one ended; then there will be another.
    case waiting(until: LocalInstant)

    var description: String {
      switch self {
      case .starting, .ending: "starting"
      case .serving: "serving"
      case .waiting: "ended"
      }
    }
  }

  /// What peers call the pool while this one serves it. The first agent bears the pool's own name.
  let id: Incarnation
  var phase = Phase.starting
  /// The present phase.
  var since: LocalInstant
  /// Agents in a row that never served, or ended soon after they began to.
  var shortLives = 0
}

/// Pools that peers read by themselves: who serves them, and the leases under which they are read.
extension NodeCore {
  // MARK: Agents

  /// A pool's agent is to be started, where this node has such.
  mutating func beginAgent(
    _ number: PoolNumber, _ id: Incarnation, at now: LocalInstant
  ) -> [NodeAction] {
    guard hasAgents else { return [] }
    agents[number] = PoolAgent(id: id, since: now)
    return [.startAgent(number, id)]
  }

  /// It is ready for peers.
  ///
  /// - Returns: False when it is not needed, because its pool has gone meanwhile, or serves something else.
  package mutating func agentServes(
    _ number: PoolNumber, _ id: Incarnation, _ pools: [RankPool], at now: LocalInstant
  ) -> Bool {
    guard agents[number]?.id == id, pools.count == terms(of: number)?.rankCount else {
      return false
    }
    agents[number]?.phase = .serving(pools)
    agents[number]?.since = now
    return true
  }

  /// No agent can ever be started here: from now on this node is one without.
  package mutating func agentsAreImpossible() {
    hasAgents = false
    agents = [:]
  }

  /// It has ended, however it went, or could not be started.
  ///
  /// - Parameter next: Drawn for the one that follows.
  package mutating func agentEnded(
    _ number: PoolNumber, _ id: Incarnation, next: Incarnation, at now: LocalInstant
  ) {
    // One that was ended because its pool had gone is missed by nobody.
    guard let old = agents[number], old.id == id else { return }
    agentsLost += 1
    var hasLived = false
    if case .serving = old.phase { hasLived = now - old.since >= limits.agentLifeMin }
    // Who read under its name reads no more.
    inPool(number) { pool in
      let desk = pool.desk
      pool.ledger.endLeases(at: now) { !desk.knows($0.holder) }
    }
    var new = PoolAgent(id: next, since: now)
    new.shortLives = hasLived ? 0 : old.shortLives + 1
    let pause = limits.agentPauseMin * (1 << min(new.shortLives, 10))
    new.phase = .waiting(until: now + min(pause, limits.agentPauseMax))
    agents[number] = new
  }

  /// Starts those whose pause is over, and ends those that are not ready in time.
  mutating func turnAgents(at now: LocalInstant) -> [NodeAction] {
    var actions: [NodeAction] = []
    for (number, agent) in agents.sorted(by: { $0.key < $1.key }) {
      guard let due = agentDue(agent), due <= now else { continue }
      let isStarting = if case .starting = agent.phase { true } else { false }
      agents[number]?.phase = isStarting ? .ending : .starting
      agents[number]?.since = now
      actions.append(isStarting ? .endAgent(number) : .startAgent(number, agent.id))
    }
    return actions
  }

  private func agentDue(_ agent: PoolAgent) -> LocalInstant? {
    switch agent.phase {
    case .starting: agent.since + limits.agentStartMax
    case .waiting(let until): until
    case .serving, .ending: nil
    }
  }

  var nextAgentAt: LocalInstant? { agents.values.compactMap { agentDue($0) }.min() }

  // MARK: Peers

  /// What a peer is told of the pool that fits it: without what it needs for reading when none does, or when
  /// nothing here serves peers.
  ///
  /// - Parameter process: Of the node.
  /// - Returns: Nil: there is nothing to tell yet, and the peer is to come again.
  package func introduce(to fingerprint: Fingerprint, process: Int32) -> Introduction? {
    func introduction(
      _ id: Incarnation, _ terms: PoolTerms, _ ranks: [RankPool]
    ) -> Introduction {
      Introduction(
        incarnation: id, name: name, fingerprint: terms.fingerprint, pools: ranks, process: process)
    }
    let ordered = pools.sorted { $0.key < $1.key }
    let fitting = ordered.first { $0.value.terms.fingerprint.mismatch(with: fingerprint) == nil }
    guard let (number, pool) = fitting else {
      return ordered.first.map { introduction($0.value.ledger.incarnation, $0.value.terms, []) }
    }
    guard hasAgents else { return introduction(pool.ledger.incarnation, pool.terms, []) }
    guard let agent = agents[number], case .serving(let ranks) = agent.phase else { return nil }
    return introduction(agent.id, pool.terms, ranks)
  }

  /// Pins the longest sealed prefix under a lease that the peer has named.
  package mutating func resolve(
    _ keys: [BlockKey], as lease: LeaseID, ttl: Duration?, at now: LocalInstant
  ) -> ResolveAnswer {
    guard !isLeaving else { return .refused(.gone) }
    let answer = withLease(lease) { $0.resolve(keys, as: $1, ttl: ttl, at: now) }
    guard case .granted(let grant)? = answer else { return answer ?? .refused(.gone) }
    return .granted(Grant(lease: lease, ttl: grant.ttl, blocks: grant.blocks))
  }

  package mutating func renew(
    _ lease: LeaseID, ttl: Duration?, at now: LocalInstant
  ) -> RenewAnswer { withLease(lease) { $0.renew($1, ttl: ttl, at: now) } ?? .gone }

  package mutating func confirm(_ lease: LeaseID, at now: LocalInstant) -> ConfirmAnswer {
    withLease(lease) { $0.confirm($1, at: now) } ?? .gone
  }

  package mutating func release(_ lease: LeaseID, at now: LocalInstant) -> ReleaseAnswer {
    withLease(lease) { $0.release($1, at: now) } ?? .gone
  }

  /// That are connected now.
  package var engineCount: Int { pools.values.reduce(0) { $0 + $1.desk.leaderCount } }

  /// Leases, and answers that are being sent to other members.
  package var readerCount: Int { storeStats.leases + servedCount }

  /// Of all pools together.
  package var storeStats: StoreStats {
    pools.values.reduce(into: StoreStats()) { $0.add($1.ledger.stats) }
  }

  /// - Returns: Nil when nobody of the lease's owner's name serves a pool: it went, or another took its place.
  private mutating func withLease<Answer>(
    _ lease: LeaseID, _ body: (inout StoreLedger, LeaseID) -> Answer
  ) -> Answer? {
    // Without agents a pool can be asked for by its own name, though not be read.
    let found =
      hasAgents
      ? agents.first { $0.value.id == lease.owner }?.key
      : pools.first { $0.value.ledger.incarnation == lease.owner }?.key
    guard let found else { return nil }
    return inPool(found) { pool in
      let own = LeaseID(
        serial: lease.serial, owner: pool.ledger.incarnation, holder: lease.holder)
      return body(&pool.ledger, own)
    }
  }
}

/// How long a node that an engine started goes on without one: never ended from under a reader.
package struct Lingering: Sendable {
  private let most: Duration
  /// As long as no engine has come at all, it waits for the first at least so long.
  private let firstMax: Duration
  private var aloneSince: LocalInstant?
  private var hasServed = false

  package init(_ most: Duration, first firstMax: Duration) {
    self.most = most
    self.firstMax = firstMax
  }

  /// - Parameters:
  ///   - engines: That are connected now.
  ///   - readers: Leases that peers hold, and answers that are being sent; they end by themselves.
  package mutating func isOver(engines: Int, readers: Int, at now: LocalInstant) -> Bool {
    guard engines == 0 else {
      aloneSince = nil
      hasServed = true
      return false
    }
    let since = aloneSince ?? now
    aloneSince = since
    return now - since >= (hasServed ? most : max(most, firstMax)) && readers == 0
  }
}

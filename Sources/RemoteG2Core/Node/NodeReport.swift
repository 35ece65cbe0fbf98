/// What a node says of itself: `remote-g2 status`, and its metrics.
package struct NodeReport: Codable, Equatable, Sendable {
  package struct Pool: Codable, Equatable, Sendable {
    package var id: String
    package var model: String
    package var layout: String
    package var hashScheme: String
    package var numerics: String
    package var weightEpoch: UInt64
    package var ranks: Int
    package var blockBytes: Int
    package var slots: Int
    package var free: Int
    package var writing: Int
    package var sealed: Int
    package var pinned: Int
    package var staged: Int
    package var leases: Int
    package var evicted: UInt64
    package var engines: Int
    package var connections: Int
    /// What became of committed blocks.
    package var saves: [String: Int]
    /// Messages that no engine of this version sends.
    package var faults: UInt64
    /// The process that peers read it from; nil where there is none.
    package var agent: Agent?
  }

  package struct Agent: Codable, Equatable, Sendable {
    /// What peers call the pool.
    package var name: String
    /// `starting`, `serving` or `ended`.
    package var state: String
  }

  package struct Member: Codable, Equatable, Sendable {
    package var name: String
    /// What it calls itself; nil while that is not known.
    package var saidName: String?
    package var standing: String
    /// Why it may not share with this node's engines; nil where it may, or is not known to be kept from it.
    package var mismatch: String?
    package var node: String?
    package var keys: Int
    package var pulls: Int
    package var bytesPerSecond: Double?
    package var ends: [String: Int]
  }

  package var name: String
  package var node: String
  package var memoryBytes: Int
  package var pools: [Pool]
  package var members: [Member]
  /// Questions of own engines that are not answered yet.
  package var waiting: Int
  /// Answers that members are sending.
  package var pulling: Int
  /// Answers that are being sent to members, and the blocks that they pin.
  package var serving: Int
  package var servingPins: Int
  package var shortfalls: [String: Int]
  package var blocksAnswered: UInt64
  package var blocksPulled: UInt64
  package var bytesPulled: UInt64
  package var bytesServed: UInt64
  /// Processes that peers read a pool from, and that ended.
  package var agentsLost: Int
  /// Connections on which one end did not believe the other's certificate, by why.
  package var handshakeRefusals: [String: Int]
  /// When this node's certificate is valid no more, in seconds since 1970; nil: it has none.
  package var certificateEnd: Int64?
  /// What was taken over from the process before; nil where nobody keeps anything.
  package var adoption: AdoptionReport?
}

extension NodeCore {
  package var report: NodeReport {
    NodeReport(
      name: name.text, node: node.description, memoryBytes: memoryBytes,
      pools: pools.sorted { $0.key < $1.key }.map { report(of: $0.key, $0.value) },
      members: members.sorted { $0.key < $1.key }.map { report(of: $0.key, $0.value) },
      waiting: waiters.count, pulling: spans.count, serving: servedCount,
      servingPins: servedPins,
      shortfalls: Dictionary(uniqueKeysWithValues: shortfalls.map { ($0.key.rawValue, $0.value) }),
      blocksAnswered: blocksAnswered, blocksPulled: blocksPulled, bytesPulled: bytesPulled,
      bytesServed: bytesServed, agentsLost: agentsLost,
      handshakeRefusals: Dictionary(
        uniqueKeysWithValues: handshakes.refusals.map { ($0.key.rawValue, $0.value) }),
      certificateEnd: handshakes.certificateEnd, adoption: adopting)
  }

  private func report(of number: PoolNumber, _ pool: NodePool) -> NodeReport.Pool {
    let stats = pool.ledger.stats
    let fingerprint = pool.terms.fingerprint
    return NodeReport.Pool(
      id: pool.ledger.incarnation.description, model: fingerprint.modelDigest,
      layout: fingerprint.layout, hashScheme: fingerprint.hashScheme,
      numerics: fingerprint.numerics, weightEpoch: fingerprint.weightEpoch,
      ranks: pool.terms.rankCount, blockBytes: pool.terms.blockBytes, slots: stats.slots,
      free: stats.free, writing: stats.writing, sealed: stats.sealed, pinned: stats.pinned,
      staged: pool.desk.stagedCount, leases: stats.leases, evicted: stats.evicted,
      engines: pool.desk.leaderCount, connections: pool.desk.connectionCount,
      saves: Dictionary(
        uniqueKeysWithValues: pool.desk.outcomes.map { ("\($0.key)", $0.value) }),
      faults: pool.desk.faults,
      agent: agents[number].map {
        NodeReport.Agent(name: "\($0.id)", state: "\($0.phase)")
      })
  }

  private func report(of name: PeerName, _ member: MemberState) -> NodeReport.Member {
    let standing =
      switch member.standing {
      case .away: "away"
      case .watched: "connected"
      case .doubted: "doubted"
      case .refused(let reason): "refused: \(reason)"
      }
    return NodeReport.Member(
      name: name.text, saidName: member.saidName?.text, standing: standing,
      mismatch: mismatch(with: name)?.description,
      node: member.node?.description, keys: index.keyCount(of: name), pulls: member.pullCount,
      bytesPerSecond: member.bytesPerSecond,
      ends: Dictionary(uniqueKeysWithValues: member.ends.map { ($0.key.rawValue, $0.value) }))
  }
}

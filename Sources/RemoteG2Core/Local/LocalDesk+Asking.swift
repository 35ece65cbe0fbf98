/// Who may connect, and what a leader is told of what the store holds.
extension LocalDesk {
  mutating func greeted(
    _ hello: LocalHello, _ connection: ConnectionID, _ ledger: inout StoreLedger,
    at now: LocalInstant
  ) -> [LocalAction] {
    func refuse(_ reason: String) -> [LocalAction] {
      [.send(connection, .refused(reason)), .close(connection)]
    }
    guard hello.version == LocalMessage.version else {
      return refuse(
        "local protocol \(hello.version); this store speaks \(LocalMessage.version): "
          + "run both from one release")
    }
    var claimed = hello.fingerprint
    // Each rank has the KV of its own heads; the bits compared are its leader's. So is the epoch, which may have risen
    // since the rank was made.
    if case .rank = hello.role {
      claimed.numerics = fingerprint.numerics
      claimed.weightEpoch = fingerprint.weightEpoch
    }
    if let mismatch = claimed.mismatch(with: fingerprint) {
      return refuse(mismatch.description)
    }
    var welcome = LocalWelcome(
      store: store, slotCount: slotCount, blockBytes: blockBytes, rankCount: rankCount,
      stagingSlots: 0)
    if case .rank(let rank) = hello.role, !(0..<rankCount).contains(rank) {
      return refuse("there is no rank \(rank) of \(rankCount)")
    }
    if engines[hello.engine] == nil, engines.count >= limits.localEnginesMax {
      return refuse("\(engines.count) engines are connected already")
    }
    var actions: [LocalAction] = []
    switch hello.role {
    case .leader:
      // A leader that comes again has lost the connection it had.
      if let old = engines[hello.engine]?.leader {
        actions = [.close(old)] + left(old, &ledger, at: now)
      }
      enterEngine(hello.engine)
      connections[connection] = .leader(hello.engine)
      engines[hello.engine]?.leader = connection
      return actions + [.send(connection, .welcome(welcome))]
    case .rank(let rank):
      if let old = engines[hello.engine]?.ranks[rank] {
        actions = [.close(old)] + left(old, &ledger, at: now)
      }
      enterEngine(hello.engine)
      welcome.stagingSlots = max(1, min(hello.stagingSlots, limits.stagingSlotsMax))
      connections[connection] = .rank(hello.engine, rank, stagingSlots: welcome.stagingSlots)
      engines[hello.engine]?.ranks[rank] = connection
      engines[hello.engine]?.firstSteps[rank] = hello.step
      return actions + [.welcomeRank(connection, rank: rank, welcome)]
    }
  }

  /// Its entry, which ends with the last of its connections.
  private mutating func enterEngine(_ id: Incarnation) {
    guard engines[id] == nil else { return }
    engines[id] = Engine(
      ranks: Array(repeating: nil, count: rankCount),
      firstSteps: Array(repeating: 0, count: rankCount),
      withdrawn: RecentKeys(countMax: limits.storeSavesInFlightMax * 4))
  }

  /// One page of a question; `whole` is called with all of its keys once the last page is here.
  mutating func page(
    _ serial: UInt64, _ keys: [BlockKey], _ isLast: Bool, _ id: Incarnation,
    _ connection: ConnectionID, whole: (inout LocalDesk, [BlockKey]) -> [LocalAction]
  ) -> [LocalAction] {
    guard let engine = engines[id] else { return [] }
    let all = (engine.asked[serial] ?? []) + keys
    guard all.count <= limits.blocksPerFetchMax, engine.asked.count < limits.fetchesInFlightMax
    else {
      engines[id]?.asked[serial] = nil
      return [.send(connection, .notFound(lease: serial, .invalid))]
    }
    guard isLast else {
      engines[id]?.asked[serial] = all
      return []
    }
    engines[id]?.asked[serial] = nil
    return whole(&self, all)
  }

  /// Grants the longest prefix that is sealed now. The lease ends when the leader gives it back, or with the
  /// leader's connection.
  package mutating func answer(
    _ wanted: WantedPrefix, _ ledger: inout StoreLedger, at now: LocalInstant
  ) -> [LocalAction] {
    // Its leader left, or came again, while it was fetched.
    guard engines[wanted.engine]?.leader == wanted.connection else { return [] }
    let lease = LeaseID(serial: wanted.serial, owner: store, holder: wanted.engine)
    switch ledger.resolve(wanted.keys, as: lease, ttl: limits.leaseTTLMax, at: now) {
    case .refused(let refusal):
      return [.send(wanted.connection, .notFound(lease: wanted.serial, refusal))]
    case .granted(let grant):
      engines[wanted.engine]?.leases.insert(lease)
      let page = LocalCodec.blocksPerPage(ranks: rankCount)
      return stride(from: 0, to: grant.blocks.count, by: page).map { first in
        let end = min(first + page, grant.blocks.count)
        return .send(
          wanted.connection,
          .found(
            lease: wanted.serial, blocks: Array(grant.blocks[first..<end]),
            isLast: end == grant.blocks.count))
      }
    }
  }
}

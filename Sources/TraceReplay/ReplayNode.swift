internal import RemoteG2Core

/// A node as it ships, with one engine beside it that keeps nothing itself, and without bytes.
struct ReplayNode {
  let name: PeerName
  let incarnation: Incarnation
  /// The only one: for the only kind of engine.
  let pool = PoolNumber(1)
  var core: NodeCore
  private let engine: Incarnation
  private let leader: ConnectionID
  private let rank: ConnectionID
  private let stagingSlots: Int
  private var leaseNext: UInt64 = 1
  private var stepNext: UInt64 = 1
  /// Of every node's feed, how far this node has heard it.
  var heard: [FeedWatcher]

  init(_ number: Int, of count: Int, blocks: Int, members: [PeerName], limits: Limits) {
    name = Self.name(number)
    incarnation = Incarnation(high: 1, low: UInt64(number))
    engine = Incarnation(high: 2, low: UInt64(number))
    heard = Array(repeating: FeedWatcher(), count: count)
    stagingSlots = limits.stagingSlotsMax
    // A block takes one byte: what counts is how many there are.
    let fingerprint = Fingerprint(
      modelDigest: "trace", weightEpoch: 0, layout: "trace", hashScheme: "trace", rankCount: 1,
      numerics: "trace")
    core = NodeCore(
      node: incarnation, name: name, members: members, memoryBytes: blocks, limits: limits)
    let start = LocalInstant(nanoseconds: 0)
    guard let leader = core.joined(at: start), let rank = core.joined(at: start) else {
      preconditionFailure("a node has room for its first engine")
    }
    (self.leader, self.rank) = (leader, rank)
    func hello(_ role: LocalHello.Role, slots: Int) -> LocalMessage {
      .hello(
        LocalHello(
          engine: engine, role: role, fingerprint: fingerprint, stagingSlots: slots, blockBytes: 1,
          step: 1))
    }
    _ = core.received(hello(.leader, slots: 0), from: leader, at: start)
    _ = core.poolMade(pool, .success(Incarnation(high: 3, low: UInt64(number))), at: start)
    _ = core.received(hello(.rank(0), slots: stagingSlots), from: rank, at: start)
    precondition(core.stats(of: pool)?.slots == blocks, "\(name) has a pool of \(blocks) blocks")
  }

  static func name(_ number: Int) -> PeerName { PeerName("n\(number)") }

  /// The engine asks for a prefix: what follows, and the number it asked under.
  mutating func want(_ keys: [BlockKey], at now: LocalInstant) -> (UInt64, [NodeAction]) {
    let lease = leaseNext
    leaseNext += 1
    let question = LocalMessage.want(lease: lease, keys: keys, isLast: true, pace: .zero)
    return (lease, core.received(question, from: leader, at: now))
  }

  mutating func release(_ lease: UInt64, at now: LocalInstant) {
    _ = core.received(.release(lease: lease), from: leader, at: now)
  }

  /// The engine has computed these blocks, and saves them: as many in a step as it can stage.
  mutating func save(_ keys: ArraySlice<BlockKey>, after parent: BlockKey?, at now: LocalInstant) {
    var (rest, parent) = (keys, parent)
    while !rest.isEmpty {
      let part = rest.prefix(stagingSlots)
      rest = rest.dropFirst(part.count)
      let step = stepNext
      stepNext += 1
      let staged = part.enumerated().map {
        StagedBlock(slot: UInt32($0.offset), key: $0.element, step: step)
      }
      var commits: [CommittedBlock] = []
      for key in part {
        commits.append(CommittedBlock(key: key, parent: parent, step: step))
        parent = key
      }
      copy(core.received(.staged(staged), from: rank, at: now))
      copy(core.received(.commit(commits), from: leader, at: now))
      copy(core.received(.settled(step: step), from: leader, at: now))
    }
  }

  private mutating func copy(_ actions: [NodeAction]) {
    for case .local(.copy(let copy), let number?) in actions {
      let digest = Digest128(high: copy.key.high, low: copy.key.low)
      _ = core.copied(copy, in: number, digests: [digest])
    }
  }
}

import RemoteG2Core
import Testing

/// The processes that peers read a node's pools from: when they are started, and what peers are told meanwhile.
@Suite struct `A node's agents` {
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(milliseconds) * 1_000_000)
  }
  static func id(_ number: UInt64) -> Incarnation { Incarnation(high: number, low: 9) }
  static let first = PoolNumber(1)
  static let ranks = [RankPool(metadata: [1], address: 4096, slotCount: 4, blockBytes: 8192)]

  static func fingerprint(_ model: String) -> Fingerprint {
    Fingerprint(modelDigest: model, layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")
  }

  /// A node of four blocks' memory.
  static func node(hasAgents: Bool = true) -> NodeCore {
    NodeCore(
      node: id(1), name: "a", members: [], memoryBytes: 4 * 8192, limits: Limits(),
      hasAgents: hasAgents)
  }

  /// An engine of that model comes.
  ///
  /// - Returns: Its connection, and what that orders.
  static func attach(
    _ model: String, _ pool: PoolNumber, _ poolID: Incarnation, to core: inout NodeCore
  ) -> (leader: ConnectionID, actions: [NodeAction]) {
    let leader = core.joined(at: at(0))!  // A node with room.
    let hello = LocalHello(
      engine: Incarnation(high: poolID.high, low: 1), role: .leader,
      fingerprint: fingerprint(model), stagingSlots: 0, blockBytes: 8192)
    let asked = core.received(.hello(hello), from: leader, at: at(0))
    return (leader, asked + core.poolMade(pool, .success(poolID), at: at(0)))
  }

  static func starts(_ actions: [NodeAction]) -> [Incarnation] {
    actions.compactMap { if case .startAgent(_, let id) = $0 { id } else { nil } }
  }

  static func introduction(_ core: NodeCore, to model: String = "m") -> Introduction? {
    core.introduce(to: fingerprint(model), process: 7)
  }

  @Test func `a pool's first agent bears its name, and peers wait until it serves`() {
    var core = Self.node()
    #expect(Self.introduction(core) == nil, "nothing is here yet")
    let (_, actions) = Self.attach("m", Self.first, Self.id(2), to: &core)
    #expect(Self.starts(actions) == [Self.id(2)])
    #expect(Self.introduction(core) == nil)
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks)
    #expect(Self.introduction(core)?.pools == Self.ranks)
    #expect(Self.introduction(core)?.incarnation == Self.id(2))
  }

  @Test func `who does not fit learns what differs, and gets no pool`() {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks)
    let told = Self.introduction(core, to: "other")
    #expect(told?.pools == [] && told?.fingerprint == Self.fingerprint("m"))
  }

  @Test func `without agents a pool is introduced, and cannot be read`() {
    var core = Self.node(hasAgents: false)
    let (_, actions) = Self.attach("m", Self.first, Self.id(2), to: &core)
    #expect(Self.starts(actions).isEmpty)
    #expect(Self.introduction(core)?.pools == [])
  }

  @Test func `each agent that ends at once is followed by one after a longer pause, up to a bound`()
  {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    let limits = core.limits
    var (now, agent) = (Self.at(0), Self.id(2))
    var pauses: [Duration] = []
    for round in 0..<12 {
      let next = Self.id(100 + UInt64(round))
      core.agentEnded(Self.first, agent, next: next, at: now)
      // Who hears of its end a second time says nothing new.
      core.agentEnded(Self.first, agent, next: Self.id(99), at: now)
      guard let due = core.nextDeadline else {
        Issue.record("no other would ever be started")
        return
      }
      pauses.append(due - now)
      let early = Self.starts(core.timePassed(at: due + .nanoseconds(-1)))
      let started = Self.starts(core.timePassed(at: due))
      #expect(early.isEmpty && started == [next])
      (now, agent) = (due, next)
    }
    #expect(core.agentsLost == 12)
    #expect(pauses == pauses.sorted() && pauses[1] > pauses[0])
    #expect(pauses.last == limits.agentPauseMax)
    // One that lived makes good for those before it.
    _ = core.agentServes(Self.first, agent, Self.ranks)
    core.agentEnded(Self.first, agent, next: Self.id(98), at: now + limits.agentLifeMin)
    #expect(core.nextDeadline == now + limits.agentLifeMin + limits.agentPauseMin)
  }

  @Test
  func
    `a pool that makes room for another takes its agent along, and late words of it change nothing`()
  {
    var core = Self.node()
    let (leader, _) = Self.attach("m", Self.first, Self.id(2), to: &core)
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks)
    _ = core.left(leader, at: Self.at(1))
    let second = PoolNumber(2)
    let (_, actions) = Self.attach("n", second, Self.id(3), to: &core)
    #expect(actions.contains(.endAgent(Self.first)) && Self.starts(actions) == [Self.id(3)])
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks)
    core.agentEnded(Self.first, Self.id(2), next: Self.id(4), at: Self.at(2))
    #expect(core.agentsLost == 0 && core.nextDeadline == nil)
    #expect(Self.introduction(core, to: "m")?.pools == [])
  }

  @Test func `an agent that tells of other ranks than there are is not believed`() {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    let isBelieved = core.agentServes(Self.first, Self.id(2), Self.ranks + Self.ranks)
    #expect(!isBelieved)
    #expect(Self.introduction(core) == nil)
  }

  @Test func `a node lingers for its time, and never ends from under an engine or a reader`() {
    var lingering = Lingering(.seconds(2))
    func isOver(_ engines: Int, _ leases: Int, _ milliseconds: Int) -> Bool {
      lingering.isOver(engines: engines, leases: leases, at: Self.at(milliseconds))
    }
    let found = [
      isOver(0, 0, 0), isOver(0, 0, 1999),
      // An engine comes back, and leaves.
      isOver(1, 0, 5000), isOver(0, 0, 6000),
      // A peer reads.
      isOver(0, 1, 8000), isOver(0, 0, 8000),
    ]
    #expect(found == [false, false, false, false, false, true])
  }
}

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
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks, at: Self.at(0))
    #expect(Self.introduction(core)?.pools == Self.ranks)
    #expect(Self.introduction(core)?.incarnation == Self.id(2))
  }

  @Test func `who does not fit learns what differs, and gets no pool`() {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks, at: Self.at(0))
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
    // One that served for a while makes good for those before it; that it took long to start does not.
    let served = now + .seconds(1000)
    _ = core.agentServes(Self.first, agent, Self.ranks, at: served)
    core.agentEnded(Self.first, agent, next: Self.id(98), at: served + limits.agentLifeMin)
    #expect(core.nextDeadline == served + limits.agentLifeMin + limits.agentPauseMin)
  }

  @Test func `one that is not ready in time is ended, and counts as one that never served`() {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    let due = Self.at(0) + core.limits.agentStartMax
    #expect(core.nextDeadline == due)
    let early = core.timePassed(at: due + .nanoseconds(-1))
    let late = core.timePassed(at: due)
    #expect(early.isEmpty && late == [.endAgent(Self.first)])
    #expect(core.nextDeadline == nil, "its end is ordered once")
    core.agentEnded(Self.first, Self.id(2), next: Self.id(3), at: due)
    #expect(core.nextDeadline == due + core.limits.agentPauseMin * 2)
  }

  @Test func `where no agent can ever be, peers are told that there is nothing to read`() {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    core.agentsAreImpossible()
    #expect(Self.introduction(core)?.pools == [] && core.nextDeadline == nil)
  }

  @Test
  func `a pool that makes room for another takes its agent along, late words of it change nothing`()
  {
    var core = Self.node()
    let (leader, _) = Self.attach("m", Self.first, Self.id(2), to: &core)
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks, at: Self.at(0))
    _ = core.left(leader, at: Self.at(1))
    let second = PoolNumber(2)
    let (_, actions) = Self.attach("n", second, Self.id(3), to: &core)
    #expect(actions.contains(.endAgent(Self.first)) && Self.starts(actions) == [Self.id(3)])
    _ = core.agentServes(Self.first, Self.id(2), Self.ranks, at: Self.at(0))
    core.agentEnded(Self.first, Self.id(2), next: Self.id(4), at: Self.at(2))
    // What is due is the second's.
    #expect(core.agentsLost == 0 && core.nextDeadline == Self.at(0) + core.limits.agentStartMax)
    #expect(Self.introduction(core, to: "m")?.pools == [])
  }

  @Test func `an agent that tells of other ranks than there are is not believed`() {
    var core = Self.node()
    _ = Self.attach("m", Self.first, Self.id(2), to: &core)
    let isBelieved = core.agentServes(
      Self.first, Self.id(2), Self.ranks + Self.ranks, at: Self.at(0))
    #expect(!isBelieved)
    #expect(Self.introduction(core) == nil)
  }

  @Test func `a node lingers for its time, and never ends from under an engine or a reader`() {
    var lingering = Lingering(.seconds(2), first: .seconds(10))
    func isOver(_ engines: Int, _ readers: Int, _ milliseconds: Int) -> Bool {
      lingering.isOver(engines: engines, readers: readers, at: Self.at(milliseconds))
    }
    let found = [
      // No engine has come yet.
      isOver(0, 0, 0), isOver(0, 0, 2000), isOver(0, 0, 9999),
      // One comes, and leaves.
      isOver(1, 0, 15000), isOver(0, 0, 16000), isOver(0, 0, 17999),
      // A peer reads.
      isOver(0, 1, 18000), isOver(0, 0, 18001),
    ]
    #expect(found == [false, false, false, false, false, false, false, true])
    var alone = Lingering(.zero, first: .seconds(10))
    let ends = [0, 9999, 10_000].map { alone.isOver(engines: 0, readers: 0, at: Self.at($0)) }
    #expect(ends == [false, false, true])
  }
}

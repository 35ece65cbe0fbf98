internal import Foundation
internal import LocalStore
internal import OSThreads
internal import Processes
internal import RemoteG2Core
package import RemoteG2Node

/// How an agent's process is started.
package struct AgentLaunch: Sendable {
  package let program: String
  /// Given its name and the number of ranks.
  package let arguments: @Sendable (String, Int) -> [String]

  package init(
    program: String, arguments: @escaping @Sendable (_ name: String, _ ranks: Int) -> [String]
  ) {
    self.program = program
    self.arguments = arguments
  }
}

/// Carries out a node's orders about its agents: starts them, gives them their pools, hears of their ends.
package final class AgentKeeper: Sendable {
  private let node: Node
  private let isStopping = Guarded(false)
  private let thread = Guarded<OSThread?>(nil)

  package init(_ node: Node, _ launch: AgentLaunch) {
    self.node = node
    let started = OSThread.start("agents") { [isStopping] in
      AgentLoop(node, launch).run { isStopping.withLock { $0 } }
    }
    thread.withLock { $0 = started }
  }

  /// Ends every agent.
  package func stop() {
    isStopping.withLock { $0 = true }
    node.agentBell.ring()
    thread.withLock { thread -> OSThread? in
      defer { thread = nil }
      return thread
    }?.join()
  }
}

private final class AgentLoop {
  /// One that is starting or serves.
  private struct Agent {
    let id: Incarnation
    let process: ChildProcess
    let socket: LocalSocket
    let shape: (slotCount: Int, blockBytes: Int)
    var text = ""
    var serves = false
  }

  /// Of an agent's announcement.
  private static let textBytesMax = 1 << 20
  private static let reapPause: Duration = .milliseconds(10)

  private let node: Node
  private let launch: AgentLaunch
  private var agents: [PoolNumber: Agent] = [:]
  /// Killed, and not seen to have ended yet. Until then one may still answer a reader, and what its readers'
  /// leases pin stays pinned.
  private var ending: [(process: ChildProcess, pool: PoolNumber, id: Incarnation)] = []

  init(_ node: Node, _ launch: AgentLaunch) {
    self.node = node
    self.launch = launch
  }

  func run(until isOver: () -> Bool) {
    while !isOver() {
      node.agentsTurned()
      for order in node.takeAgentOrders() {
        switch order {
        case .start(let pool, let id): start(pool, id)
        case .end(let pool): if agents[pool] != nil { lost(pool, "was not ready in time") }
        }
      }
      for pool in agents.keys.sorted() { look(pool) }
      let over = ending.filter { $0.process.hasEnded() }
      ending.removeAll { one in over.contains { $0.process === one.process } }
      for one in over { ended(one.pool, one.id) }
      let now = MonotonicClock.now()
      _ = node.agentBell.wait(
        until: now + (ending.isEmpty ? .seconds(1) : Self.reapPause),
        hearing: agents.values.map(\.socket.descriptor))
    }
    for (pool, agent) in agents { end(agent, of: pool) }
    let deadline = MonotonicClock.now() + .seconds(1)
    while !ending.isEmpty, MonotonicClock.now() < deadline {
      ending.removeAll { $0.process.hasEnded(waiting: 10) }
    }
  }

  private func start(_ pool: PoolNumber, _ id: Incarnation) {
    // The pool may have gone since it was ordered.
    guard let memory = node.memory(of: pool), let first = memory.first else {
      return ended(pool, id)
    }
    guard let (own, its) = LocalSocket.pair() else {
      return failed(pool, id, "no connection to it can be made")
    }
    let process: ChildProcess
    do throws(ChildProcess.SpawnError) {
      process = try ChildProcess(
        launch.program, launch.arguments("\(id)", memory.count), input: its.descriptor,
        error: STDERR_FILENO)
    } catch { return failed(pool, id, "\(error)") }
    withExtendedLifetime(its) {}
    var isTold = true
    for rank in memory {
      let welcome = LocalWelcome(
        store: rank.owner, slotCount: rank.slotCount, blockBytes: rank.blockBytes,
        rankCount: memory.count, stagingSlots: 0)
      isTold = own.send(.welcome(welcome), descriptors: [rank.readOnlyDescriptor]) && isTold
    }
    agents[pool] = Agent(
      id: id, process: process, socket: own, shape: (first.slotCount, first.blockBytes))
    guard !isTold else { return }
    // It may have said why.
    look(pool)
    lost(pool, "takes no pools")
  }

  private func look(_ pool: PoolNumber) {
    while let agent = agents[pool] {
      switch agent.socket.receive() {
      case .message(.reported(_, let page, let isLast), _):
        agents[pool]?.text += page
        if agent.serves || agent.text.utf8.count + page.utf8.count > Self.textBytesMax {
          return lost(pool, "says what no agent says")
        }
        if isLast, !serves(pool) { return lost(pool, "serves another pool") }
      case .message(.refused(let reason), _):
        for (pool, agent) in agents { end(agent, of: pool) }
        agents = [:]
        node.configured.log("peers cannot read this node's pools: \(reason)")
        return node.decide { core, _ in core.agentsAreImpossible() }
      case .message, .malformed: return lost(pool, "says what no agent says")
      case .closed: return lost(pool, "has ended")
      case .nothing: return
      }
    }
  }

  /// It can be read from.
  ///
  /// - Returns: False when its announcement makes no sense.
  private func serves(_ pool: PoolNumber) -> Bool {
    guard let agent = agents[pool],
      let told = try? JSONDecoder().decode(AgentAnnouncement.self, from: Data(agent.text.utf8))
    else { return false }
    let ranks = told.addresses.map {
      RankPool(
        metadata: Array(told.metadata), address: $0, slotCount: agent.shape.slotCount,
        blockBytes: agent.shape.blockBytes)
    }
    agents[pool]?.serves = true
    agents[pool]?.text = ""
    return node.decide { core, now in core.agentServes(pool, agent.id, ranks, at: now) }
  }

  private func lost(_ pool: PoolNumber, _ how: String) {
    guard let agent = agents.removeValue(forKey: pool) else { return }
    end(agent, of: pool)
    // One whose pool made room for another is missed by nobody.
    guard node.look({ $0.poolNumbers.contains(pool) }) else { return }
    say(pool, "its agent \(how)")
  }

  /// None could be started.
  private func failed(_ pool: PoolNumber, _ id: Incarnation, _ why: String) {
    say(pool, why)
    ended(pool, id)
  }

  private func say(_ pool: PoolNumber, _ why: String) {
    node.configured.log("peers cannot read \(pool): \(why); another agent is started")
  }

  private func ended(_ pool: PoolNumber, _ id: Incarnation) {
    var generator = SystemRandomNumberGenerator()
    let next = Incarnation(using: &generator)
    node.decide { core, now in core.agentEnded(pool, id, next: next, at: now) }
  }

  /// Nobody reads from it any more who could be answered.
  private func end(_ agent: Agent, of pool: PoolNumber) {
    agent.process.signal(SIGKILL)
    ending.append((agent.process, pool, agent.id))
  }
}

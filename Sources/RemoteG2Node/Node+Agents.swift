package import LocalStore
package import OSThreads
package import RemoteG2Core

/// What is to be done about the processes that peers read pools from.
package enum AgentOrder: Sendable {
  case start(PoolNumber, Incarnation)
  case end(PoolNumber)
}

/// For who starts those processes and answers the peers that read from them.
extension Node {
  package var configured: NodeConfiguration { configuration }

  /// Rings with every order.
  package var agentBell: EventBell { board.agentBell }
  package func takeAgentOrders() -> [AgentOrder] { board.agentOrders.drain() }

  /// What an agent maps, by rank; nil when the pool has gone. It stays while somebody keeps it.
  package func memory(of pool: PoolNumber) -> [PoolMemory]? { board.pools(pool) }

  /// Who keeps the agents says in every turn that it does not hang.
  package func agentsTurned() { board.turned("agents") }

  /// Lets the core answer a peer, or hear of an agent. It orders nothing.
  package func decide<Result>(_ body: (inout NodeCore, LocalInstant) -> Result) -> Result {
    let result = board.withCore { body(&$0, MonotonicClock.now()) }
    // A lease that was granted, or an agent's pause, may end before the thread would look again.
    board.localBell.ring()
    return result
  }
}

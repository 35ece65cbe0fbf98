internal import Foundation
internal import LocalStore
package import OSThreads
package import RemoteG2Core
package import RemoteG2Node

/// A node on ports that the system chooses, with a folder of its own.
package final class TestNode {
  package let node: Node
  package let configuration: NodeConfiguration
  package let log = Guarded<[String]>([])

  package init(
    _ name: PeerName, members: [(name: PeerName, address: StreamAddress)] = [],
    memoryBytes: Int = 1 << 20, limits: Limits = Limits(),
    hasAgents: Bool = false, directory: String? = nil, tls: TLSFiles? = nil,
    keeper: KeeperLink? = nil
  ) throws {
    let folder =
      directory
      ?? FileManager.default.temporaryDirectory.path + "/rg2n-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    configuration = NodeConfiguration(
      name: name, address: StreamAddress(host: "127.0.0.1", port: 0), members: members,
      memoryBytes: memoryBytes, directory: folder, limits: limits, hasAgents: hasAgents,
      tls: tls, keeper: keeper, log: { [log] line in log.withLock { $0.append(line) } })
    node = try Node(configuration)
  }

  package var socket: String { configuration.socketPath }
  package var member: (name: PeerName, address: StreamAddress) {
    (configuration.name, StreamAddress(host: "127.0.0.1", port: node.port))
  }
  package var report: NodeReport { node.look(\.report) }
  package var sealed: Int { report.pools.reduce(0) { $0 + $1.sealed } }

  /// What it holds for anybody.
  package var held: Int {
    let report = report
    return report.waiting + report.pulling + report.serving + report.servingPins
      + report.pools.reduce(0) { $0 + $1.pinned + $1.writing + $1.staged + $1.leases }
  }

  /// Answers the orders about agents as if each served its pool at once, from an address that nobody reads.
  ///
  /// - Returns: What peers call the pools.
  package func serveAgents() -> [Incarnation] {
    node.takeAgentOrders().compactMap { order in
      guard case .start(let pool, let id) = order, let memory = node.memory(of: pool) else {
        return nil
      }
      let ranks = memory.map {
        RankPool(
          metadata: [1, 2, 3], address: 4096, slotCount: $0.slotCount, blockBytes: $0.blockBytes)
      }
      return node.decide { core, now in core.agentServes(pool, id, ranks, at: now) } ? id : nil
    }
  }

  package func stop() {
    node.stop()
    try? FileManager.default.removeItem(atPath: configuration.directory)
  }
}

/// Looks until it holds, ten seconds at most.
package func comes(_ check: () -> Bool) -> Bool {
  let deadline = MonotonicClock.now() + .seconds(10)
  while !check() {
    guard MonotonicClock.now() < deadline else { return false }
    OSThread.nap(.microseconds(500))
  }
  return true
}

import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node

/// (l) A prefix that one node holds, and that twelve others are asked for at the same moment, over real sockets.
enum SpreadBench {
  private static let others = 12
  private static let blockBytes = 1 << 20
  private static let blocks = 32
  private static let rounds = 5

  static func run() throws {
    print(
      "\n(l) a prefix of \(blocks * blockBytes >> 20) MiB that one node holds, and \(others) others want:"
    )
    // With the pieces of memory that engines save from.
    let memory = 4 * rounds * blocks * blockBytes
    let nodes = try (0...others).map { number in
      try TestNode(PeerName("n\(number)"), memoryBytes: memory)
    }
    defer { for node in nodes { node.stop() } }
    let engines = try nodes.enumerated().map { number, node in
      try BenchEngine(
        node.socket, blockBytes: blockBytes, blockCount: number == 0 ? blocks : 1)
    }
    let places = nodes.map { Membership.Place(name: $0.member.name, address: $0.member.address) }
    for (number, node) in nodes.enumerated() {
      node.node.found(
        places.enumerated().filter { $0.offset != number }.map(\.element), by: .registry)
    }
    func prefix(_ number: Int) -> [BlockKey] { NodeBench.keys(7_000 + number, blocks) }
    for number in 0..<2 * rounds { try engines[0].save(prefix(number)) }
    func knows(_ node: TestNode, _ keys: [BlockKey]) -> Bool {
      node.node.look { core in core.keysAnnounced(by: nodes[0].member.name).isSuperset(of: keys) }
    }
    guard comes({ nodes.dropFirst().allSatisfy { knows($0, prefix(2 * rounds - 1)) } }) else {
      throw BenchFailure("the others do not know it")
    }
    var (alone, together, shares, busy): ([Double], [Double], [Double], [Int]) = ([], [], [], [])
    for round in 0..<rounds {
      // One by one would be so often what one takes.
      alone.append(
        try Bench.seconds {
          try engines[1 + round % others].question(prefix(2 * round), want: blocks)
        })
      let (sent, refused) = (nodes.map(\.report.bytesServed), refusals(nodes))
      let keys = prefix(2 * round + 1)
      together.append(try Bench.seconds { try askAtOnce(engines.dropFirst(), keys) })
      let moved = zip(nodes, sent).map { Double($0.report.bytesServed - $1) }
      let whole = Double(blocks * blockBytes)
      precondition(moved.reduce(0, +) >= whole * Double(others), "each has it from somebody")
      shares.append(moved[0] / whole)
      busy.append(refusals(nodes) - refused)
    }
    print(
      String(
        format:
          "  the first sends it %.1f times (at most %.1f of \(rounds) rounds), the others have it from one another; %d "
          + "times somebody was busy (median)\n  all have it after %.0f ms, %.2f of %d times what one alone takes (%.0f ms)",
        Bench.quantile(shares, 0.5), shares.max() ?? 0, busy.sorted()[rounds / 2],
        Bench.quantile(together, 0.5) * 1e3,
        Bench.quantile(together, 0.5) / (Bench.quantile(alone, 0.5) * Double(others)), others,
        Bench.quantile(alone, 0.5) * 1e3))
  }

  private static func refusals(_ nodes: [TestNode]) -> Int {
    nodes.reduce(0) { sum, node in
      sum + node.report.members.reduce(0) { $0 + ($1.ends["busy"] ?? 0) }
    }
  }

  private static func askAtOnce(_ engines: ArraySlice<BenchEngine>, _ keys: [BlockKey]) throws {
    let problems = Guarded<[String]>([])
    let threads = engines.map { engine in
      nonisolated(unsafe) let engine = engine
      return OSThread.start("engine") {
        do { try engine.question(keys, want: blocks) } catch {
          problems.withLock { $0.append("\(error)") }
        }
      }
    }
    for thread in threads { thread.join() }
    if let problem = problems.withLock({ $0.first }) { throw BenchFailure(problem) }
  }
}

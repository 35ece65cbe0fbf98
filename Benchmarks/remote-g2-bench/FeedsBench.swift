import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node

/// (k) One real node and the feeds of fifty others, over real sockets: all of them join at once, one joins while the
/// node fetches, and all of them change what they have.
enum FeedsBench {
  private static let members = 50
  private static let keysOfEach = 100_000
  private static let blockBytes = 1 << 20
  private static let blocks = 128
  private static let rounds = 7
  /// Of all members together.
  private static let changesPerSecond = 20_000

  static func run() throws {
    print("\n(k) a node and \(members) feeds of \(keysOfEach) blocks, over sockets:")
    let flock = FeedFlock(members, keysOfEach: keysOfEach)
    defer { flock.stop() }
    func announced(_ count: Int, to node: Node) throws {
      let deadline = MonotonicClock.now() + .seconds(60)
      while node.look({ $0.report.members.reduce(0) { $0 + $1.keys } }) < count {
        guard MonotonicClock.now() < deadline else { throw BenchFailure("feeds are not heard") }
        OSThread.nap(.milliseconds(2))
      }
    }
    let one = try TestNode("one")
    let processor = Bench.processorSeconds()
    let all = try Bench.seconds {
      one.node.found(flock.members, by: .registry)
      try announced(members * keysOfEach, to: one.node)
    }
    print(
      String(
        format: "  a node joins: complete after %.2f s, %.2f s of processor, the members' with it",
        all,
        Bench.processorSeconds() - processor))
    one.stop()
    let pair = try NodeBench.Pair(blockBytes, count: blocks, prefixes: 3 * rounds + 1)
    defer { pair.end() }
    var prefix = 0
    func fetch() throws -> Double {
      defer { prefix += 1 }
      return try Bench.seconds {
        try pair.engine.question(NodeBench.keys(prefix, blocks), want: blocks)
      }
    }
    let own = pair.node.look { $0.report.members.first?.keys ?? 0 }
    _ = try fetch()
    pair.node.found(flock.members, by: .registry)
    try announced(own + members * keysOfEach, to: pair.node)
    // Until the pages of its pools are there.
    while Bench.processorSeconds(over: .milliseconds(500)) > 0.1 {}
    // One joins at the moment at which a fetch begins.
    var (quiet, joining, complete, churning): ([Double], [Double], [Double], [Double]) = (
      [], [], [], []
    )
    for _ in 0..<rounds {
      quiet.append(try fetch())
      pair.node.found(flock.members.dropLast(), by: .registry)
      while pair.node.look(\.nextDeadline).map({ $0.nanoseconds == 0 }) == true {
        OSThread.nap(.milliseconds(1))
      }
      let began = MonotonicClock.now()
      pair.node.found(flock.members, by: .registry)
      joining.append(try fetch())
      try announced(own + members * keysOfEach, to: pair.node)
      complete.append((MonotonicClock.now() - began).inSeconds)
    }
    flock.change(changesPerSecond / members)
    OSThread.nap(.milliseconds(500))
    let (told, since) = (flock.changesTold, MonotonicClock.now())
    for _ in 0..<rounds {
      churning.append(try fetch())
      OSThread.nap(.milliseconds(50))
    }
    let rate = Double(flock.changesTold - told) / (MonotonicClock.now() - since).inSeconds
    flock.change(0)
    func median(_ values: [Double]) -> Double { Bench.quantile(values, 0.5) }
    print(
      String(
        format:
          "  one joins: complete after %.0f ms; a fetch of %d MiB takes %.0f ms, %.3f of that while one joins, "
          + "%.3f while all change (%.0f changes a second)",
        median(complete) * 1e3, blocks * blockBytes >> 20, median(quiet) * 1e3,
        median(joining) / median(quiet), median(churning) / median(quiet), rate))
  }
}

import Foundation
import NodeRegistry
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node

/// (m) Two nodes that know each other from etcd and are asked all the time, while that is gone for minutes.
enum RegistryBench {
  private static let prefixBlocks = 4

  /// What came of the loads of one part of it.
  private struct Part {
    var loads = 0
    /// Fewer blocks than both nodes together hold.
    var short = 0
    var wrong = 0
    var times: [Double] = []
    var aloneSeen = 0
  }

  private struct Member {
    let node: TestNode
    let registry: EtcdRegistry
    let engine: NodeEngine

    init(_ name: PeerName, _ url: String) throws {
      let node = try TestNode(name)
      self.node = node
      registry = EtcdRegistry(
        .init(
          endpoints: [url], name: name,
          listen: HostAndPort(host: "127.0.0.1", port: node.node.port - 1).description),
        limits: Limits(), found: { [node = node.node] in node.found($0, by: .registry) },
        log: { [log = node.log] line in log.withLock { $0.append(line) } })
      engine = try NodeEngine(node.socket)
    }

    var connected: Int { node.report.members.count { $0.standing == "connected" } }

    func stop() async {
      await registry.stop()
      node.stop()
    }
  }

  static func run(gone seconds: Int) async throws {
    print("\n(m) two nodes and their engines under load, and etcd gone for \(seconds) s:")
    let etcd = try Etcd()
    let (a, b) = (try Member("a", etcd.url), try Member("b", etcd.url))
    guard a.engine.comes({ a.engine.isAttached && a.connected == 1 }),
      b.engine.comes({ b.engine.isAttached && b.connected == 1 })
    else { throw BenchFailure("the nodes do not find each other: \(a.node.log.withLock { $0 })") }
    var number: UInt64 = 0
    func part(_ duration: Duration) -> Part {
      var part = Part()
      let end = MonotonicClock.now() + duration
      while MonotonicClock.now() < end { load(a, b, &number, &part) }
      return part
    }
    try tell("before", part(.seconds(20)))
    etcd.kill()
    try tell("while it is gone", part(.seconds(seconds)))
    let late = try Member("c", etcd.url)
    let found = late.engine.comes { late.engine.isAttached }
    try tell("and with a third that finds nobody", part(.seconds(10)))
    precondition(found && late.connected == 0, "nobody tells it of others")
    try etcd.start()
    let back = MonotonicClock.now()
    guard comes({ late.connected == 2 }) else { throw BenchFailure("the third is not found") }
    print(
      String(
        format: "  it is back: the third is everybody's member after %.1f s",
        (MonotonicClock.now() - back).inSeconds))
    try tell("after it", part(.seconds(20)))
    for member in [a, b, late] { await member.stop() }
  }

  private static func tell(_ what: String, _ part: Part) throws {
    guard part.wrong == 0 else { throw BenchFailure("\(what): \(part.wrong) blocks are wrong") }
    guard part.short * 10 < part.loads else {
      throw BenchFailure("\(what): \(part.short) of \(part.loads) loads found too little")
    }
    print(
      "  " + "\(what):".padding(toLength: 36, withPad: " ", startingAt: 0)
        + String(
          format:
            "%d loads from the other node, %.0f / %.0f us (p50 / p99); wrong %d, with less than is held %d; "
            + "seen without its member %d times",
          part.loads, Bench.quantile(part.times, 0.5) * 1e6, Bench.quantile(part.times, 0.99) * 1e6,
          part.wrong, part.short, part.aloneSeen))
  }

  /// One node's engine saves a new prefix, and the other's, which never computes anything itself, loads it.
  private static func load(
    _ from: Member, _ to: Member, _ number: inout UInt64, _ part: inout Part
  ) {
    number += 1
    let keys = (0..<prefixBlocks).map { BlockKey(high: number, low: UInt64($0)) }
    from.engine.save(keys) { number << 8 | UInt64($0) }
    let last = keys[prefixBlocks - 1]
    // Its feed tells the other.
    guard
      to.engine.comes({
        to.node.node.look { $0.keysAnnounced(by: from.node.member.name).contains(last) }
      })
    else {
      part.short += 1
      return
    }
    var count = 0
    part.times.append(Bench.seconds { count = to.engine.load(keys, into: 8) })
    part.loads += 1
    if count < prefixBlocks { part.short += 1 }
    for place in 0..<count where to.engine.content(8 + place) != number << 8 | UInt64(place) {
      part.wrong += 1
    }
    if from.connected < 1 || to.connected < 1 { part.aloneSeen += 1 }
  }
}

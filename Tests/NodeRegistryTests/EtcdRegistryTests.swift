import NodeRegistry
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node
import Testing

/// Nodes that find each other in a real etcd.
@Suite(.serialized) struct `Nodes in etcd` {
  /// A node, and its place in the registry.
  final class Registered {
    let node: TestNode
    let registry: EtcdRegistry

    init(_ name: PeerName, _ url: String, limits: Limits) throws {
      let node = try TestNode(name, limits: limits)
      self.node = node
      registry = EtcdRegistry(
        .init(
          endpoints: [url], name: name,
          listen: HostAndPort(host: "127.0.0.1", port: node.node.port - 1).description),
        limits: limits, found: { [node = node.node] in node.found($0, by: .registry) },
        log: { [log = node.log] line in log.withLock { $0.append(line) } })
    }

    var connected: [String] {
      node.report.members.filter { $0.standing == "connected" }.map(\.name).sorted()
    }
    func said(_ what: String) -> Bool { node.log.withLock { $0.contains { $0.contains(what) } } }

    func stop(leaves: Bool = true) async {
      await registry.stop(leaves: leaves)
      node.stop()
    }
  }

  static let limits = Limits {
    $0.registryLease = .seconds(2)
    $0.registryCallMax = .milliseconds(600)
    $0.registryRetryMax = .milliseconds(200)
  }

  @Test func `join, leave, and go on without it as long as it is gone`() async throws {
    let etcd = try Etcd()
    let a = try Registered("a", etcd.url, limits: Self.limits)
    let b = try Registered("b", etcd.url, limits: Self.limits)
    #expect(comes { a.connected == ["b"] && b.connected == ["a"] }, "\(a.node.log.withLock { $0 })")

    // While it is gone members stay, and share.
    etcd.kill()
    #expect(comes { a.said("does not answer") && b.said("does not answer") })
    let (one, other) = (try NodeEngine(a.node.socket), try NodeEngine(b.node.socket))
    #expect(one.comes { one.isAttached } && other.comes { other.isAttached })
    one.step()
    other.step()
    let keys = (0..<4).map { BlockKey(high: UInt64($0), low: 5) }
    one.save(keys) { 0x100 + UInt64($0) }
    #expect(comes { b.node.report.members.first?.keys == 4 })
    #expect(other.load(keys, into: 2) == 4)
    #expect(a.connected == ["b"] && b.connected == ["a"])

    // It comes back, and a third node with it.
    try etcd.start()
    let c = try Registered("c", etcd.url, limits: Self.limits)
    #expect(comes { a.connected == ["b", "c"] && b.connected == ["a", "c"] })
    #expect(comes { c.connected == ["a", "b"] })

    // One leaves, and one dies: its entry ends with its lease.
    await c.stop()
    #expect(comes { a.node.report.members.map(\.name) == ["b"] })
    await b.stop(leaves: false)
    #expect(a.node.report.members.map(\.name) == ["b"])
    #expect(comes { a.node.report.members.isEmpty })
    await a.stop()
  }

  @Test func `say so where two have one name, and the first stays`() async throws {
    let etcd = try Etcd()
    let a = try Registered("a", etcd.url, limits: Self.limits)
    #expect(comes { a.said("this node is in the registry") })
    let second = try Registered("a", etcd.url, limits: Self.limits)
    #expect(comes { second.said("another node named a is in the registry") })
    let b = try Registered("b", etcd.url, limits: Self.limits)
    #expect(comes { b.connected == ["a"] })
    #expect(b.node.report.members.first?.node == a.node.report.node)
    // Once the first has left, the second may have it.
    await a.stop()
    #expect(comes { second.said("this node is in the registry") })
    #expect(comes { b.node.report.members.first?.node == second.node.report.node })
    for node in [second, b] { await node.stop() }
  }

  @Test func `who restarts at its address takes its own entry over`() async throws {
    let etcd = try Etcd()
    let a = try TestNode("a", limits: Self.limits)
    defer { a.stop() }
    func registry() -> EtcdRegistry {
      EtcdRegistry(
        .init(endpoints: ["http://127.0.0.1:1", etcd.url], name: "a", listen: "127.0.0.1:7001"),
        limits: Self.limits, found: { _ in },
        log: { [log = a.log] line in log.withLock { $0.append(line) } })
    }
    // The first of the two endpoints is nobody's: the other is tried.
    let first = registry()
    let entered = "this node is in the registry"
    #expect(comes { a.log.withLock { $0.contains(entered) } })
    await first.stop(leaves: false)
    a.log.withLock { $0 = [] }
    let second = registry()
    #expect(comes { a.log.withLock { $0.contains(entered) } })
    #expect(!a.log.withLock { $0.contains { $0.contains("another node") } })
    await second.stop()
  }
}

import Foundation
import KVLayout
import Linear
import LlamaModel
import LocalStore
import NodeTesting
import OSThreads
import PoolAgents
import Processes
import RemoteG2Control
import RemoteG2Core
import RemoteG2Runtime

/// (c) Round trips of resolve → grant and of confirm with a real store, idle and while an engine on
/// its machine computes on every core.
enum ControlBench {
  static func run(model: String?) async throws {
    print("\n(c) control round trips over TCP, 64 keys: p50 / p99 in µs")
    let node = try TestNode("bench", memoryBytes: 8 << 20, hasAgents: true)
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    guard engine.comes({ engine.isAttached }), let owner = node.serveAgents().first else {
      print("  no engine could attach")
      return
    }
    let server = try await StoreServer.start(
      backend: DirectService(serving: node.node), host: "127.0.0.1", port: 0, limits: Limits())
    let keys = (0..<64).map { BlockKey(high: UInt64($0), low: 1) }
    engine.step()
    for first in stride(from: 0, to: 64, by: NodeEngine.blockCount) {
      let part = Array(keys[first..<first + NodeEngine.blockCount])
      engine.save(part) { UInt64(first + $0) }
      guard engine.comes({ node.sealed == first + NodeEngine.blockCount }) else {
        print("  the blocks were not saved")
        return
      }
    }
    let client = try StoreClient(StoreAddress(host: "127.0.0.1", port: server.port))
    try await measure("idle", client, keys, owner)
    if let model {
      let busy = try ChildProcess("/proc/self/exe".resolved, ["compute", model])
      // Long enough to have loaded its weights.
      try await Task.sleep(for: .seconds(4))
      try await measure("computing", client, keys, owner)
      busy.signal(SIGKILL)
      _ = busy.hasEnded(waiting: 2000)
    }
    client.stop()
    await server.stop()
  }

  private static func measure(
    _ name: String, _ client: StoreClient, _ keys: [BlockKey], _ owner: Incarnation
  ) async throws {
    var (resolves, confirms) = ([Double](), [Double]())
    var generator = SystemRandomNumberGenerator()
    let holder = Incarnation(using: &generator)
    for serial in UInt64(1)...500 {
      let lease = LeaseID(serial: serial, owner: owner, holder: holder)
      let start = MonotonicClock.now()
      let answer = try await client.resolve(keys, as: lease, ttl: nil, timeout: .seconds(5))
      resolves.append((MonotonicClock.now() - start).inSeconds * 1e6)
      guard case .granted(let grant) = answer else { return }
      let asked = MonotonicClock.now()
      _ = try await client.confirm(grant.lease, timeout: .seconds(5))
      confirms.append((MonotonicClock.now() - asked).inSeconds * 1e6)
      _ = try await client.release(grant.lease, timeout: .seconds(5))
    }
    print(
      String(
        format: "  %@: resolve %.0f / %.0f, confirm %.0f / %.0f", name,
        Bench.quantile(resolves, 0.5), Bench.quantile(resolves, 0.99),
        Bench.quantile(confirms, 0.5), Bench.quantile(confirms, 0.99)))
  }

  /// Prefills for ever, on all cores: what an engine beside its store does.
  static func computeForever(_ path: String?) throws {
    guard let path else { return }
    let team = ThreadTeam(threads: ProcessInfo.processInfo.activeProcessorCount)
    let model = try LlamaModel(try GGUFFile(path: path), team: team)
    let blocks = (0..<Int32(8)).map { $0 }
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: model.layout.blockBytes * 8, alignment: 4096)
    while true {
      let span = SequenceSpan(
        tokens: (0..<Int32(128)).map { $0 + 17 }, position: 0, blocks: blocks, wantsLogits: false)
      _ = model.forward([span], pool: memory)
    }
  }
}

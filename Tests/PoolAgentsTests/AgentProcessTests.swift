import Foundation
import NodeTesting
import OSThreads
import Processes
import RemoteG2Control
import RemoteG2Core
import RemoteG2Node
import Testing

/// The built program, beside the test runner.
private let program = URL(fileURLWithPath: "/proc/self/exe".resolved).deletingLastPathComponent()
  .appendingPathComponent("remote-g2").path

/// Asked of a child: this process must not load UCX.
private let hasNIXL =
  (try? ChildProcess.run(
    program, ["agent", "--name", "probe", "--probe"], timeout: .seconds(60)))?.status == 0

/// Real nodes, with the real processes that peers read their pools from.
@Suite(.serialized, .enabled(if: hasNIXL, "NIXL is not installed: scripts/setup unpacks it"))
struct `A pool's agent` {
  @Test func `one that is killed is followed by another, and none outlives its node`() async throws
  {
    let folder =
      FileManager.default.temporaryDirectory.path + "/rg2a-\(UUID().uuidString.prefix(8))"
    let output = Pipe()
    let node = try ChildProcess(
      program,
      [
        "node", "--no-keeper", "--name", "T", "--memory", "1MiB", "--listen", "127.0.0.1:0",
        "--direct",
        "127.0.0.1:0", "--run-dir", folder, "--ucx-tls", "tcp",
      ], output: output.fileHandleForWriting.fileDescriptor)
    defer {
      node.signal(SIGKILL)
      _ = node.hasEnded(waiting: 2000)
      try? FileManager.default.removeItem(atPath: folder)
    }
    var reader = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 4096)
    guard case .text(let line)? = reader.next(),
      let ready = try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any],
      let port = ready["direct"] as? Int
    else {
      Issue.record("the node did not start")
      return
    }
    let engine = try NodeEngine(folder + "/T.node")
    try #require(engine.comes { engine.isAttached })
    let peer = try StoreClient(StoreAddress(host: "127.0.0.1", port: port))
    defer { peer.stop() }
    func introduced(not old: Incarnation?) async throws -> Introduction? {
      let deadline = MonotonicClock.now() + .seconds(30)
      while MonotonicClock.now() < deadline {
        let found = try? await peer.handshake(
          as: NodeEngine.fingerprint(), name: "P", incarnation: Incarnation(high: 1, low: 1),
          timeout: .seconds(5))
        if let found, found.incarnation != old, found.pools.count == 1 { return found }
        OSThread.nap(.milliseconds(20))
      }
      return nil
    }
    let first = try #require(try await introduced(not: nil))
    #expect(Int(first.process) == Int(node.pid))
    let old = try #require(ProcFile.children(of: node.pid).first)
    #expect(ProcFile.children(of: node.pid).count == 1)
    // A node itself never loads what its agents load.
    func loads(_ pid: Int32) -> Bool {
      (ProcFile.text("/proc/\(pid)/maps") ?? "").contains("libucp")
    }
    #expect(loads(old) && !loads(node.pid))
    kill(old, SIGABRT)
    let second = try #require(try await introduced(not: first.incarnation))
    #expect(second.pools[0].metadata != first.pools[0].metadata)
    let report = try NodeQuestion.report(of: folder + "/T.node")
    #expect(report.agentsLost == 1 && report.pools.first?.agent?.state == "serving")
    // Not even one that is stopped, and cannot see that its node has gone.
    let agent = try #require(
      ProcFile.children(of: node.pid).first.flatMap { ChildProcess(running: $0) })
    agent.signal(SIGSTOP)
    #expect(comes { agent.stateLetter == "T" })
    node.signal(SIGKILL)
    #expect(node.hasEnded(waiting: 5000) && agent.hasEnded(waiting: 5000))
    withExtendedLifetime(engine) {}
  }
}

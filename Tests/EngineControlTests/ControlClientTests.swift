import EngineControl
import Foundation
import KVConnector
import NodeTesting
import OSThreads
import PoolAgents
import Processes
import RemoteG2Control
import RemoteG2Core
import RemoteG2Runtime
import Testing

/// The shipped control client against real stores: who is alive, who is dead, and who only hangs.
@Suite(.serialized) struct `The control client` {
  static let fingerprint = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")

  /// The built program, beside the test runner.
  static let program = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    .deletingLastPathComponent().appendingPathComponent("remote-g2").path

  /// An empty folder for the time of one test.
  static func withDirectory(_ body: (String) async throws -> Void) async throws {
    let path = FileManager.default.temporaryDirectory.path + "/rg2c-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    defer { try? FileManager.default.removeItem(atPath: path) }
    try await body(path)
  }

  static func client() -> ControlClient {
    ControlClient(
      fingerprint: fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
      limits: Limits(), answers: Mailbox())
  }

  /// Looks again and again until `check` holds; false when it does not within the bound.
  static func comes(within bound: Duration, _ check: () async -> Bool) async -> Bool {
    let deadline = MonotonicClock.now() + bound
    while MonotonicClock.now() < deadline {
      if await check() { return true }
      OSThread.nap(.milliseconds(5))
    }
    return await check()
  }

  /// A node with a pool that peers can ask for.
  static func node(_ name: PeerName) throws -> (TestNode, NodeEngine, Incarnation) {
    let node = try TestNode(name, hasAgents: true)
    let engine = try NodeEngine(node.socket)
    try #require(engine.comes { engine.isAttached })
    return (node, engine, try #require(node.serveAgents().first))
  }

  @Test func `a store whose address refused for a moment, and that answers again, is used again`()
    async throws
  {
    let (node, engine, owner) = try Self.node("S")
    defer { node.stop() }
    let service = DirectService(serving: node.node)
    func serve(_ port: Int) async throws -> StoreServer {
      try await StoreServer.start(
        backend: service, host: "127.0.0.1", port: port, limits: Limits())
    }
    let first = try await serve(0)
    let control = Self.client()
    control.addPeer(
      "S", through: try StoreClient(StoreAddress(host: "127.0.0.1", port: first.port)))
    let source = SourceID.peer(name: "S", owner)
    let wasReady = await Self.comes(within: .seconds(5)) {
      control.state(ofPeer: "S") == .ready(source)
    }
    #expect(wasReady)
    await first.stop()
    let isNoticed = await Self.comes(within: .seconds(5)) {
      control.state(ofPeer: "S") != .ready(source)
    }
    #expect(isNoticed, "nothing refused, so this shows nothing")
    // Long enough to be taken for dead.
    OSThread.nap(.seconds(1))
    let second = try await serve(first.port)
    let isBack = await Self.comes(within: .seconds(5)) {
      control.state(ofPeer: "S") == .ready(source)
    }
    #expect(isBack, "a living store was given up for good")
    control.stop()
    await second.stop()
    withExtendedLifetime(engine) {}
  }

  @Test func `an own store of another model is told of by its process`() async throws {
    try await Self.withDirectory(Self.refuseAnotherModel)
  }

  private static func refuseAnotherModel(_ directory: String) async throws {
    // Its memory is for the other model's one block.
    let node = try TestNode(
      "T", memoryBytes: NodeEngine.layers * NodeEngine.page)
    defer { node.stop() }
    let engine = try NodeEngine(node.socket, model: NodeEngine.model("another"))
    try #require(engine.comes { engine.isAttached })
    defer { withExtendedLifetime(engine) {} }
    let told = Guarded<[(Int32, String)]>([])
    let control = ControlClient(
      fingerprint: Self.fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
      limits: Limits(), answers: Mailbox(),
      onUnusable: { process, reason in told.withLock { $0.append((process, reason)) } })
    control.followLocalStore(at: node.socket, blockBytes: 4096)
    let isTold = await Self.comes(within: .seconds(5)) { told.withLock { !$0.isEmpty } }
    #expect(isTold && control.localStore == nil)
    let (process, reason) = told.withLock { $0.first ?? (0, "") }
    #expect(process == getpid() && reason.contains("raise --memory"), "\(reason)")
    control.stop()
  }

  @Test func `an own store that hangs is not asked any more, and is when it goes on`() async throws
  {
    try await Self.withDirectory(Self.hangAndGoOn)
  }

  private static func hangAndGoOn(_ directory: String) async throws {
    let arguments = [
      "node", "--no-keeper", "--name", "T", "--memory", "64KiB", "--listen", "127.0.0.1:0",
      "--linger", "30",
      "--run-dir", directory,
    ]
    let output = Pipe()
    let store = try ChildProcess(
      program, arguments, output: output.fileHandleForWriting.fileDescriptor)
    defer {
      store.signal(SIGKILL)
      _ = store.hasEnded(waiting: 2000)
    }
    var reader = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 4096)
    guard case .text = reader.next() else {
      Issue.record("the store did not start")
      return
    }
    let control = Self.client()
    control.followLocalStore(at: directory + "/T.node", blockBytes: 4096)
    let wasThere = await Self.comes(within: .seconds(5)) { control.localStore != nil }
    #expect(wasThere)
    store.signal(SIGSTOP)
    let isGivenUp = await Self.comes(within: .seconds(5)) { control.localStore == nil }
    #expect(isGivenUp && store.stateLetter == "T", "every request would go on to wait for it")
    store.signal(SIGCONT)
    let isBack = await Self.comes(within: .seconds(5)) { control.localStore != nil }
    #expect(isBack)
    control.stop()
  }
}

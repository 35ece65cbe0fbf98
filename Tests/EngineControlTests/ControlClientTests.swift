import EngineControl
import Foundation
import KVConnector
import LocalStore
import OSThreads
import Processes
import RemoteG2Control
import RemoteG2Core
import RemoteG2Runtime
import RemoteG2Store
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

  static func service(_ name: String, _ owner: Incarnation) throws -> StoreService {
    let pool = try PoolMemory(slotCount: 8, blockBytes: 4096, owner: owner)
    let service = StoreService(
      StoreConfiguration(
        name: name, fingerprint: fingerprint, slotCount: 8, blockBytes: 4096, rankCount: 1,
        limits: Limits()), incarnation: owner, pools: [pool], willServePeers: true)
    service.serve([1, 2, 3])
    return service
  }

  @Test func `a store whose address refused for a moment, and that answers again, is used again`()
    async throws
  {
    let owner = Incarnation(high: 3, low: 4)
    let service = try Self.service("S", owner)
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
  }

  @Test func `an own store of another model is told of by its process`() async throws {
    try await Self.withDirectory(Self.refuseAnotherModel)
  }

  private static func refuseAnotherModel(_ directory: String) async throws {
    var other = Self.fingerprint
    other.modelDigest = "another"
    let owner = Incarnation(high: 5, low: 5)
    let pool = try PoolMemory(slotCount: 2, blockBytes: 4096, owner: owner)
    let service = try LocalService(
      at: directory + "/T.sock", store: owner, fingerprint: other, pools: [pool],
      ledger: Guarded(
        StoreLedger(incarnation: owner, slotCount: 2, rankCount: 1, limits: Limits())),
      limits: Limits())
    defer { service.stop() }
    let told = Guarded<[(Int32, String)]>([])
    let control = ControlClient(
      fingerprint: Self.fingerprint, name: "T", incarnation: Incarnation(high: 1, low: 1),
      limits: Limits(), answers: Mailbox(),
      onUnusable: { process, reason in told.withLock { $0.append((process, reason)) } })
    control.followLocalStore(at: directory + "/T.sock")
    let isTold = await Self.comes(within: .seconds(5)) { told.withLock { !$0.isEmpty } }
    #expect(isTold && control.localStore == nil)
    let (process, reason) = told.withLock { $0.first ?? (0, "") }
    #expect(process == getpid() && reason.contains("another"), "\(reason)")
    control.stop()
  }

  @Test func `an own store that hangs is not asked any more, and is when it goes on`() async throws
  {
    try await Self.withDirectory(Self.hangAndGoOn)
  }

  private static func hangAndGoOn(_ directory: String) async throws {
    let arguments = [
      "store", "--name", "T", "--slots", "4", "--block-bytes", "4096", "--model-digest", "m",
      "--layout", "l", "--hash-scheme", "h", "--numerics", "n", "--linger", "30",
      "--nixl-path", "/nonexistent", "--run-dir", directory,
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
    control.followLocalStore(at: directory + "/T.sock")
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

import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Node
import RemoteG2Runtime
import WorkerConsole

/// Workers with the built-in engine, each beside a node of its own.
final class NodeFleet {
  struct Settings {
    var model: String
    var directory: String
    var names: [String]
    var blockCount: Int
    var memory: String
    var generate: Int
  }

  let settings: Settings
  private(set) var nodes: [String: NodeProcess] = [:]
  private(set) var workers: [String: WorkerProcess] = [:]
  private var ports: [String: Int] = [:]
  /// Whether nodes know of each other.
  private(set) var isJoined = false
  /// Whether nodes are started with a keeper.
  var isKept = false

  init(_ settings: Settings) {
    self.settings = settings
    for name in settings.names { ports[name] = FreePort.pair() }
  }

  /// Starts every node, and the workers that are not there yet.
  ///
  /// - Parameter joined: Whether the nodes are to know of each other.
  func start(joined: Bool) throws {
    isJoined = joined
    for name in settings.names { try startNode(name) }
    for name in settings.names where workers[name] == nil {
      workers[name] = try WorkerProcess(
        name: name,
        arguments: [
          "--model", settings.model, "--node", name, "--run-dir", settings.directory,
          "--g1-blocks", "\(settings.blockCount)", "--threads", "1",
        ], log: "\(settings.directory)/worker-\(name).log")
    }
    for worker in workers.values { try worker.waitUntilReady() }
    try waitUntilConnected()
  }

  func startNode(_ name: String) throws {
    let members = isJoined ? ports.filter { $0.key != name } : [:]
    nodes[name] = try NodeProcess(
      name, port: ports[name] ?? 0, members: members, memory: settings.memory,
      directory: settings.directory, isKept: isKept)
  }

  /// Stops every node: what they hold is gone.
  func stopNodes() {
    for node in nodes.values { node.stop() }
    nodes = [:]
  }

  /// Waits until every worker has its node, and every node that lives all others that do.
  func waitUntilConnected() throws {
    try poll("every worker has its node, and nodes know each other", seconds: 30) {
      for (name, node) in nodes where !node.process.hasEnded() {
        guard try workers[name]?.audit().isLocalReady == true else { return false }
        let report = try node.report()
        let isWhole = report.members.allSatisfy {
          $0.standing == "connected" || nodes[$0.name]?.process.hasEnded() != false
        }
        guard isWhole, report.pools.contains(where: { $0.engines > 0 }) else { return false }
      }
      return true
    }
  }

  func poll(_ what: String, seconds: Double, _ check: () throws -> Bool) throws {
    let deadline = MonotonicClock.now() + .milliseconds(Int(seconds * 1000))
    while true {
      if try check() { return }
      guard MonotonicClock.now() < deadline else {
        throw SceneFailure("not within \(seconds) s: \(what)")
      }
      usleep(20_000)
    }
  }

  /// What nodes and engines hold though nothing is asked of them, in words.
  func leaks() throws -> [String] {
    var found: [String] = []
    let deadline = MonotonicClock.now() + .seconds(3)
    repeat {
      found = []
      for (name, node) in nodes where !node.process.hasEnded() {
        if let held = try node.held() { found.append("node \(name): \(held)") }
      }
      for (name, worker) in workers {
        let audit = try worker.audit()
        if audit.fetches + audit.blocksHeld + audit.saving + audit.transfersInFlight > 0 {
          found.append("engine \(name): \(audit.fetches) fetches, \(audit.blocksHeld) blocks")
        }
      }
      if found.isEmpty { return [] }
      usleep(50_000)
    } while MonotonicClock.now() < deadline
    return found
  }

  func stop() {
    for worker in workers.values { worker.stop() }
    stopNodes()
  }
}

/// Ports that nobody listens on.
enum FreePort {
  /// One whose successor is free too: members use both.
  static func pair() -> Int {
    for _ in 0..<100 {
      let port = any()
      if port < 65_535, isFree(port + 1) { return port }
    }
    fail("no two ports in a row are free on this machine")
  }

  private static func any() -> Int { bound(0) ?? 0 }
  private static func isFree(_ port: Int) -> Bool { bound(port) != nil }

  /// Binds and lets go again.
  private static func bound(_ port: Int) -> Int? {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    return withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
      }
    } ? Int(UInt16(bigEndian: address.sin_port)) : nil
  }
}

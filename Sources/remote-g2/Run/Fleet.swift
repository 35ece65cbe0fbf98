import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Runtime

/// The two workers of the demonstration, and how each is started again.
final class Fleet {
  struct Settings {
    var model: String
    var nixlPath: String?
    var directory: String
    var transport: String?
    var threads: Int
    var blockCount: Int
    var slotCount: Int
    var generate: Int
    /// Nil: both on loopback.
    var link: Link? = nil
    var rankCount = 1
    /// Of one worker: the ranks, their node and its agent, and mpirun where there is one.
    var processCount: Int { rankCount == 1 ? 3 : rankCount + 3 }
  }

  let settings: Settings
  private var ports: [String: Int] = [:]
  private(set) var workers: [String: WorkerProcess] = [:]
  /// Descriptors and shared memory of each process when nothing is going on.
  private var baseline: [String: Footprint] = [:]

  /// What the last audit found too much of, in words.
  private(set) var leakDetails: [String] = []

  struct Footprint: Equatable, CustomStringConvertible {
    var descriptors: Int
    var sharedMemory: Int
    var description: String { "\(descriptors) descriptors, \(sharedMemory) mappings" }
  }

  init(_ settings: Settings) {
    self.settings = settings
    for name in ["A", "B"] { ports[name] = Self.freePort() }
  }

  var a: WorkerProcess { workers["A"]! }  // Both are made by start(), before any scene.
  var b: WorkerProcess { workers["B"]! }

  func start(_ name: String) throws {
    let other = name == "A" ? "B" : "A"
    let host = { (name: String) in self.settings.link?.address(of: name) ?? "127.0.0.1" }
    var arguments = [
      "--model", settings.model, "--host", host(name), "--port", "\(ports[name] ?? 0)",
      "--run-dir", settings.directory, "--peer", "\(other)=\(host(other)):\(ports[other] ?? 0)",
      "--g1-blocks", "\(settings.blockCount)",
      "--slots", "\(settings.slotCount)", "--threads", "\(settings.threads)", "--linger", "60",
      "--pull", "always", "--tp", "\(settings.rankCount)",
    ]
    if let path = settings.nixlPath { arguments += ["--nixl-path", path] }
    if let transport = settings.transport { arguments += ["--ucx-tls", transport] }
    if settings.rankCount > 1 { arguments.append("--inject") }
    if settings.link != nil { arguments.append("--insecure") }
    workers[name] = try WorkerProcess(
      name: name, arguments: arguments, log: log(of: name),
      wrapper: settings.link?.wrapper(of: name) ?? [],
      environment: settings.link?.environment(of: name) ?? [:])
  }

  /// What a worker wrote to its standard error, over all its starts.
  func log(of name: String) -> String { "\(settings.directory)/worker-\(name).log" }

  /// Waits until `name`'s engine has its store, and, if asked, its peer.
  func waitUntilReady(_ name: String, peer: String?) throws {
    guard let worker = workers[name] else { throw SceneFailure("no worker \(name)") }
    try worker.waitUntilReady()
    try waitUntilConnected(name, peer: peer)
  }

  /// Waits until `name` has its own store and, if asked, the incarnation of `peer`'s store that lives now:
  /// one that died a moment ago may still count as ready.
  func waitUntilConnected(_ name: String, peer: String?) throws {
    guard let worker = workers[name] else { throw SceneFailure("no worker \(name)") }
    try poll("\(name) is connected", seconds: 30) {
      let audit = try worker.audit()
      guard audit.isLocalReady, audit.storeSealed != nil else { return false }
      guard let peer else { return true }
      guard let known = audit.peersReady[peer] else { return false }
      return servedAs(peer) == known
    }
  }

  /// Asks again and again, a few times a second.
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

  /// Kills every rank of a worker's engine at once, and nothing else of it: mpirun, where there is
  /// one, ends by itself.
  ///
  /// - Returns: When all of them were dead; nil when one would not die.
  func killEngine(_ name: String) -> Int64? {
    guard let worker = workers[name] else { return nil }
    let ranks = rankProcesses(name)
    guard ranks.count == settings.rankCount else { return nil }
    for rank in ranks { rank.signal(SIGKILL) }
    guard ranks.allSatisfy({ $0.hasEnded(waiting: 5_000) }) else { return nil }
    let died = MonotonicClock.now().nanoseconds
    return worker.process.hasEnded(waiting: 5_000) ? died : nil
  }

  /// The processes of a worker's engine, in the order of their ranks.
  func rankProcesses(_ name: String) -> [ChildProcess] {
    guard let worker = workers[name] else { return [] }
    guard settings.rankCount > 1 else { return [worker.process] }
    let ranked = members().compactMap { pid -> (rank: Int, process: ChildProcess)? in
      let words = (ProcFile.text("/proc/\(pid)/cmdline") ?? "").split(separator: "\0")
      guard pid != worker.process.pid, words.dropFirst().first == "worker",
        zip(words, words.dropFirst()).contains(where: { $0 == ("--name", Substring(name)) }),
        let process = ChildProcess(running: pid)
      else { return nil }
      let key = "OMPI_COMM_WORLD_RANK="
      let rank = (ProcFile.text("/proc/\(pid)/environ") ?? "").split(separator: "\0")
        .first { $0.hasPrefix(key) }.flatMap { Int($0.dropFirst(key.count)) }
      return rank.map { ($0, process) }
    }
    return ranked.sorted { $0.rank < $1.rank }.map(\.process)
  }

  /// Ends everything that was started in this run directory, by pid.
  func stop() {
    for worker in workers.values { worker.stop() }
    for pid in members() {
      ChildProcess(running: pid)?.signal(SIGKILL)
    }
  }

  /// Processes of this demonstration, found by their run directory.
  func members() -> [Int32] { Self.members(of: settings.directory) }

  private static func members(of directory: String) -> [Int32] {
    ProcFile.names(in: "/proc").compactMap { Int32($0) }.filter { pid in
      guard pid != getpid(), let command = ProcFile.text("/proc/\(pid)/cmdline") else {
        return false
      }
      return command.split(separator: "\0").contains(Substring(directory))
    }
  }

  /// Kills whatever runs in a run directory, for a command that is told to end.
  static func killAll(in directory: String) {
    for pid in members(of: directory) { ChildProcess(running: pid)?.signal(SIGKILL) }
  }

  // MARK: Leak audit

  private func footprints() throws -> [String: Footprint] {
    var found: [String: Footprint] = [:]
    for (name, worker) in workers {
      let audit = try worker.audit()
      found["engine \(name)"] = Footprint(
        descriptors: audit.descriptors, sharedMemory: audit.sharedMemory)
      // The leader told of itself.
      for (rank, process) in rankProcesses(name).enumerated().dropFirst() {
        let maps = (ProcFile.text("/proc/\(process.pid)/maps") ?? "").split(separator: "\n")
        found["rank \(rank) of \(name)"] = Footprint(
          descriptors: ProcFile.names(in: "/proc/\(process.pid)/fd").count,
          sharedMemory: maps.count { $0.contains("remote-g2-pool") })
      }
      if let pid = audit.storePID {
        found["store \(name)"] = Footprint(
          descriptors: ProcFile.names(in: "/proc/\(pid)/fd").count, sharedMemory: 0)
        let agent = try agentProcess(name)
        found["agent \(name)"] = Footprint(
          descriptors: ProcFile.names(in: "/proc/\(agent.pid)/fd").count, sharedMemory: 0)
      }
    }
    found["system"] = Footprint(
      descriptors: 0, sharedMemory: ProcFile.names(in: "/dev/shm").count)
    return found
  }

  /// Remembers what an idle, connected fleet holds.
  func takeBaseline() throws { baseline = try footprints() }

  /// What is held that should not be. Waits a little for things that end by themselves.
  func leaks(seconds: Double = 3) throws -> SceneReport.Leaks {
    let deadline = MonotonicClock.now() + .milliseconds(Int(seconds * 1000))
    while true {
      let leaks = try currentLeaks()
      if leaks.isClean || MonotonicClock.now() >= deadline { return leaks }
      usleep(50_000)
    }
  }

  private func currentLeaks() throws -> SceneReport.Leaks {
    var leaks = SceneReport.Leaks()
    for worker in workers.values {
      let audit = try worker.audit()
      // A store that cannot be asked is not known to be clean.
      leaks.leases += audit.storeLeases ?? 1
      leaks.pins += (audit.storePinned ?? 1) + audit.blocksHeld
      leaks.in_flight += audit.transfersInFlight + audit.fetches + audit.saving
      leaks.quarantined += audit.quarantined
    }
    leakDetails = []
    for (name, worker) in workers {
      let (counted, told) = (try worker.audit().fallbacks, worker.reasonsTold)
      let reasons = Set(counted.keys).union(told.keys)
      let apart = reasons.filter { counted[$0, default: 0] != told[$0, default: 0] }
      guard !apart.isEmpty else { continue }
      leaks.unaccounted += apart.count
      leakDetails.append("\(name) counted \(counted), its results told \(told)")
    }
    leaks.processes = max(0, members().count - settings.processCount * workers.count)
    let now = try footprints()
    for (name, before) in baseline {
      guard let after = now[name] else {
        leaks.processes += 1
        leakDetails.append("\(name) is missing")
        continue
      }
      if after.descriptors > before.descriptors || after.sharedMemory > before.sharedMemory {
        leakDetails.append("\(name): \(before) became \(after)")
      }
      leaks.descriptors += max(0, after.descriptors - before.descriptors)
      leaks.shared_memory += max(0, after.sharedMemory - before.sharedMemory)
    }
    return leaks
  }

  private static func freePort() -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = bind(descriptor, $0, length)
        _ = getsockname(descriptor, $0, &length)
      }
    }
    return Int(UInt16(bigEndian: address.sin_port))
  }
}

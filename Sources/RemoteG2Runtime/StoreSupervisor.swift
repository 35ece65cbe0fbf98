internal import Glibc
internal import LocalStore
internal import OSThreads
internal import Processes
package import RemoteG2Control
internal import RemoteG2Core
internal import Synchronization

/// How a worker starts its store.
package struct StoreLaunch: Sendable {
  package var name: String
  package var host: String
  package var port: Int
  package var directory: String
  package var slotCount: Int
  package var blockBytes: Int
  package var rankCount: Int
  package var linger: Duration
  package var nixlPath: String?
  package var isInsecure: Bool
  package var certificates: ControlCertificates?

  package init(
    name: String, host: String, port: Int, directory: String, slotCount: Int, blockBytes: Int,
    rankCount: Int, linger: Duration, nixlPath: String?, isInsecure: Bool,
    certificates: ControlCertificates? = nil
  ) {
    self.name = name
    self.host = host
    self.port = port
    self.directory = directory
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.rankCount = rankCount
    self.linger = linger
    self.nixlPath = nixlPath
    self.isInsecure = isInsecure
    self.certificates = certificates
  }

  package var arguments: [String] {
    var arguments = [
      "node", "--private", "--name", name, "--listen", "127.0.0.1:0", "--direct", "\(host):\(port)",
      "--run-dir", directory, "--memory", "\(slotCount * blockBytes * rankCount)B",
      "--linger", "\(linger.inSeconds)",
    ]
    if let nixlPath { arguments += ["--nixl-path", nixlPath] }
    if isInsecure { arguments.append("--insecure") }
    if let certificates {
      arguments += [
        "--tls-certificate", certificates.certificate, "--tls-key", certificates.key,
        "--tls-authority", certificates.authority,
      ]
    }
    return arguments
  }
}

/// Keeps one store of the worker's name running: adopts one that is there, replaces one that cannot
/// be used, restarts one that died. The engine serves on meanwhile.
package final class StoreSupervisor: Sendable {
  private struct State {
    var store: ChildProcess?
    var startCount = 0
    var failure: String?
    var startedAt = LocalInstant(nanoseconds: 0)
    /// Starts in a row whose store ended at once.
    var shortStarts = 0
  }

  /// A store that ends sooner than this has not really started.
  private static let startMin: Duration = .seconds(5)

  private let launch: StoreLaunch
  package let socketPath: String
  private let state = Mutex(State())
  private let loop = Mutex<Task<Void, Never>?>(nil)

  package init(_ launch: StoreLaunch) {
    self.launch = launch
    socketPath = "\(launch.directory)/\(launch.name).own"
  }

  package var storePID: Int32? { state.withLock { $0.store?.pid } }
  package var startCount: Int { state.withLock { $0.startCount } }
  /// Why the last start did not lead to a listening store.
  package var failure: String? { state.withLock { $0.failure } }

  package func start() {
    let task = Task { [self] in
      var backoff: Duration = .milliseconds(50)
      while !Task.isCancelled {
        let isWell = await look()
        backoff = isWell ? .milliseconds(50) : min(backoff * 2, .seconds(1))
        try? await Task.sleep(for: isWell ? .milliseconds(50) : backoff)
      }
    }
    loop.withLock { $0 = task }
  }

  /// Stops watching. The store stays, and lingers.
  package func stop() { loop.withLock { $0.take() }?.cancel() }

  /// Ends an incompatible store so that the next look starts a fitting one.
  package func replace(_ pid: Int32, because reason: String) {
    guard let process = ChildProcess(running: pid) else { return }
    // Only ever a node that a worker started, and one that holds our name.
    guard let command = ProcFile.text("/proc/\(pid)/cmdline"),
      command.split(separator: "\0").contains("--private"),
      command.split(separator: "\0").contains(Substring(launch.name))
    else {
      state.withLock { $0.failure = "process \(pid) holds \(socketPath) and is not a node" }
      return
    }
    state.withLock { $0.failure = "replaced a store that cannot be used: \(reason)" }
    process.signal(SIGKILL)
  }

  /// - Returns: false when a start just failed.
  private func look() async -> Bool {
    if let store = state.withLock({ $0.store }) {
      guard store.hasEnded() else { return true }
      let shortStarts = state.withLock { state in
        state.store = nil
        let lived = MonotonicClock.now() - state.startedAt
        state.shortStarts = lived < Self.startMin ? state.shortStarts + 1 : 0
        return state.shortStarts
      }
      if shortStarts > 0 { noteFailure() }
      // The first death is made good at once; one start after another is not.
      if shortStarts > 1 {
        try? await Task.sleep(for: min(.milliseconds(50) * (1 << min(shortStarts, 6)), .seconds(1)))
      }
    }
    // One that another worker of this name left behind.
    if let process = Self.listener(at: socketPath) {
      state.withLock { $0.store = ChildProcess(running: process) }
      return true
    }
    return await spawn()
  }

  /// Keeps the last words of a store that did not start.
  private func noteFailure() {
    let words = ProcFile.text("\(launch.directory)/\(launch.name).log") ?? ""
    let last = words.split(separator: "\n").last.map(String.init)
    state.withLock { $0.failure = last ?? "the store ended" }
  }

  /// The process that listens at a socket, asked of the kernel.
  private static func listener(at path: String) -> Int32? {
    guard case .success(let socket) = LocalSocket.connect(path) else { return nil }
    return socket.peer?.process
  }

  private func spawn() async -> Bool {
    let log = open(
      "\(launch.directory)/\(launch.name).log",
      O_CREAT | O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0o600)
    defer { if log >= 0 { close(log) } }
    do throws(ChildProcess.SpawnError) {
      let store = try ChildProcess(
        "/proc/self/exe".resolved, launch.arguments, error: log >= 0 ? log : nil,
        hasOwnSession: true)
      state.withLock {
        $0.store = store
        $0.startCount += 1
        $0.startedAt = MonotonicClock.now()
      }
      // Until it listens or ends; a start takes about half a second.
      for _ in 0..<200 {
        if store.hasEnded() {
          state.withLock { $0.store = nil }
          noteFailure()
          return false
        }
        if Self.listener(at: socketPath) != nil { return true }
        try? await Task.sleep(for: .milliseconds(25))
      }
      return true
    } catch {
      state.withLock { $0.failure = "\(error)" }
      return false
    }
  }
}

internal import CLinuxShims
internal import Glibc
package import LocalStore
package import NIXL
internal import OSThreads
package import RemoteG2Control
package import RemoteG2Core

/// Why a store process cannot start.
package enum StoreError: Error, Sendable, CustomStringConvertible {
  case nameTaken(String, path: String)
  case cannotLock(path: String, reason: String)
  case pool(PoolError)
  case serve(ServeError)
  case nixl(NIXLError)

  package var description: String {
    switch self {
    case .nameTaken(let name, let path):
      "a store named \(name) is running already (it holds \(path)): stop it, or choose another --name"
    case .cannotLock(let path, let reason): "cannot lock \(path): \(reason)"
    case .pool(let error): "\(error)"
    case .serve(let error): "\(error)"
    case .nixl(let error):
      "NIXL cannot serve the pool: \(error); run `remote-g2 doctor`, or start without it"
    }
  }
}

/// Where a store's files are.
package struct StorePaths: Sendable, Equatable {
  package let socket: String
  package let lock: String

  package init(directory: String, name: String) {
    socket = "\(directory)/\(name).sock"
    lock = "\(directory)/\(name).lock"
  }
}

/// The store process: pools, ledger, serving agent, control service, reaper.
package enum StoreProcess {
  /// Runs until it has lingered without a local engine for `linger`, and returns then.
  ///
  /// - Parameter ready: Called once everything listens, with the bound port.
  package static func run(
    _ configuration: StoreConfiguration, host: String, port: Int, paths: StorePaths,
    linger: Duration, library: NIXLLibrary?, ready: (Int, Incarnation) -> Void
  ) async throws(StoreError) {
    // Held for the life of the process: only its holder may replace the socket.
    let lock = clinux_lock_file(paths.lock)
    guard lock >= 0 else {
      if lock == -EWOULDBLOCK { throw .nameTaken(configuration.name, path: paths.lock) }
      throw .cannotLock(path: paths.lock, reason: String(cString: strerror(-lock)))
    }
    defer { close(lock) }
    var generator = SystemRandomNumberGenerator()
    let incarnation = Incarnation(using: &generator)
    var pools: [PoolMemory] = []
    do throws(PoolError) {
      for _ in 0..<configuration.rankCount {
        pools.append(
          try PoolMemory(
            slotCount: configuration.slotCount, blockBytes: configuration.blockBytes,
            owner: incarnation))
      }
    } catch { throw .pool(error) }
    let service = StoreService(
      configuration, incarnation: incarnation, pools: pools, willServePeers: library != nil)
    let server: StoreServer
    do throws(ServeError) {
      server = try await StoreServer.start(
        backend: service, host: host, port: port, limits: configuration.limits)
    } catch { throw .serve(error) }
    let local: LocalService
    do throws(PoolError) {
      local = try LocalService(
        at: paths.socket, store: incarnation, fingerprint: configuration.fingerprint,
        pools: pools, ledger: service.ledger, limits: configuration.limits)
    } catch {
      await server.stop()
      throw .pool(error)
    }
    // The local engine is served already: making the first UCX backend takes half a second.
    var agent: ServingAgent?
    if let library {
      switch await servingAgent("store-\(incarnation)", pools, library) {
      case .success(let made):
        agent = made
        service.serve(made.metadata)
      case .failure(let error):
        unlink(paths.socket)
        local.stop()
        await server.stop()
        throw .nixl(error)
      }
    }
    ready(server.port, incarnation)
    // Never from under a reader: the last lease ends by release or by its deadline.
    while local.timeAlone(at: MonotonicClock.now()) < linger || service.stats().1.leases > 0 {
      let now = MonotonicClock.now()
      // A renewal or a new grant can only move the next deadline later than a short nap.
      let next = min(service.expireDue() ?? now + .milliseconds(20), now + .milliseconds(20))
      try? await Task.sleep(for: max(.milliseconds(1), next - now))
    }
    // Gone from the file system first, so that a new worker starts its own store.
    unlink(paths.socket)
    local.stop()
    await server.stop()
    withExtendedLifetime((agent, pools)) {}
  }

  /// Makes the agent on a thread of its own: the tasks that answer calls must not wait for it.
  private static func servingAgent(
    _ name: String, _ pools: [PoolMemory], _ library: NIXLLibrary
  ) async -> Result<ServingAgent, NIXLError> {
    await withCheckedContinuation { continuation in
      _ = OSThread.start("serving-agent") {
        do throws(NIXLError) {
          continuation.resume(
            returning: .success(try ServingAgent(name: name, pools: pools, library: library)))
        } catch { continuation.resume(returning: .failure(error)) }
      }
    }
  }
}

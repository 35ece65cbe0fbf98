internal import GRPCCore
internal import GRPCNIOTransportHTTP2Posix
internal import Glibc
internal import NIOCertificateReloading
internal import NIOCore
package import RemoteG2Core

/// Why a control service cannot start.
package enum ServeError: Error, Equatable, Sendable, CustomStringConvertible {
  case addressInUse(host: String, port: Int)
  case cannotListen(String, reason: String)

  package var description: String {
    switch self {
    case .addressInUse(let host, let port):
      "port \(port) on \(host) is in use: stop what listens there, or choose another"
    case .cannotListen(let address, let reason): "cannot listen on \(address): \(reason)"
    }
  }
}

/// A store's control service for its peers, over TCP.
package final class StoreServer: Sendable {
  private typealias Server = GRPCServer<HTTP2ServerTransport.Posix>
  private let tasks: [Task<Void, any Error>]
  private let beginShutdown: @Sendable () -> Void
  /// The TCP port that was bound.
  package let port: Int

  /// - Parameters:
  ///   - host: A numeric address. 0 as the port lets the system choose.
  ///   - certificates: With which callers are let in; nil: nothing is encrypted, and anybody is.
  package static func start(
    backend: any StoreBackend, host: String, port: Int, limits: Limits,
    certificates: ControlCertificates? = nil
  ) async throws(ServeError) -> StoreServer {
    let store = StoreCalls(backend: backend, limits: limits)
    var security = HTTP2ServerTransport.Posix.TransportSecurity.plaintext
    var reloading: Task<Void, any Error>?
    if let certificates {
      do {
        let reloader = try certificates.reloader()
        security = try .mTLS(certificateReloader: reloader) {
          $0.trustRoots = certificates.trustRoots
        }
        reloading = Task { try await reloader.run() }
      } catch {
        throw .cannotListen("\(host):\(port)", reason: "\(certificates.certificate): \(error)")
      }
    }
    let peers = Server(
      transport: transport(.ipv4(host: host, port: port), security, limits), services: [store])
    let peerTask = Task { try await peers.serve() }
    do {
      guard let bound = try await peers.listeningAddress?.ipv4?.port else {
        throw ServeError.cannotListen("\(host):\(port)", reason: "no address was bound")
      }
      return StoreServer(tasks: [peerTask], port: bound) { [reloading] in
        reloading?.cancel()
        peers.beginGracefulShutdown()
      }
    } catch {
      reloading?.cancel()
      // The cause comes out of serve(), not out of listeningAddress.
      peerTask.cancel()
      let cause = await failure(of: peerTask)
      if (cause as? IOError)?.errnoCode == EADDRINUSE {
        throw .addressInUse(host: host, port: port)
      }
      throw .cannotListen("\(host):\(port)", reason: cause.map { "\($0)" } ?? "\(error)")
    }
  }

  private init(
    tasks: [Task<Void, any Error>], port: Int, beginShutdown: @escaping @Sendable () -> Void
  ) {
    self.tasks = tasks
    self.beginShutdown = beginShutdown
    self.port = port
  }

  /// Closes the listeners, lets calls end, and after at most a second closes what is left: a stopped
  /// client would be waited for without end. Cutting at once instead would trap in the middle of an
  /// accept.
  package func stop() async {
    beginShutdown()
    let tasks = tasks
    let timer = Task {
      try await Task.sleep(for: .seconds(1))
      for task in tasks { task.cancel() }
    }
    for task in tasks { _ = await task.result }
    timer.cancel()
  }

  private static func failure(of task: Task<Void, any Error>) async -> (any Error)? {
    do {
      try await task.value
      return nil
    } catch let error as RuntimeError {
      return error.cause is CancellationError ? nil : error.cause ?? error
    } catch {
      return error is CancellationError ? nil : error
    }
  }

  private static func transport(
    _ address: GRPCNIOTransportCore.SocketAddress,
    _ security: HTTP2ServerTransport.Posix.TransportSecurity, _ limits: Limits
  ) -> HTTP2ServerTransport.Posix {
    .http2NIOPosix(
      address: address, transportSecurity: security,
      config: .defaults {
        $0.rpc.maxRequestPayloadSize = limits.messageBytesMax
        $0.http2.maxConcurrentStreams = limits.fetchesInFlightMax * 4
        // A lease call is small and somebody waits for it.
        $0.connection.flushCoalescing = nil
      })
  }
}

internal import GRPCCore
internal import GRPCNIOTransportHTTP2Posix
internal import NIOCertificateReloading
package import RemoteG2Core
internal import SwiftProtobuf

/// Where a store's control service listens.
package struct StoreAddress: Hashable, Sendable, CustomStringConvertible {
  /// A numeric address.
  package let host: String
  package let port: Int

  package init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  package var description: String { "\(host):\(port)" }
}

/// Why a call was not answered.
package enum CallError: Error, Equatable, Sendable {
  /// No connection, or it broke: ask the address whether anyone is left.
  case unavailable(String)
  case timedOut
  /// It is there, and cannot serve peers yet.
  case starting
  /// It answered with something that is not an answer.
  case invalid(String)
}

/// One store's services, as a client calls them. Every call has a deadline.
package final class StoreClient: Sendable {
  private typealias Transport = HTTP2ClientTransport.Posix
  package let address: StoreAddress
  private let client: GRPCClient<Transport>
  private let runner: Task<Void, any Error>
  private let reloading: Task<Void, any Error>?

  /// - Parameters:
  ///   - name: Whose certificate must be shown there, if any is shown.
  ///   - certificates: To show, and to judge by; nil: nothing is encrypted.
  package init(
    _ address: StoreAddress, of name: PeerName? = nil, certificates: ControlCertificates? = nil
  ) throws(CallError) {
    self.address = address
    do {
      var security = Transport.TransportSecurity.plaintext
      var reloading: Task<Void, any Error>?
      if let certificates {
        let reloader = try certificates.reloader()
        security = try .mTLS(certificateReloader: reloader) {
          $0.trustRoots = certificates.trustRoots
        }
        reloading = Task { try await reloader.run() }
      }
      self.reloading = reloading
      let transport = try Transport(
        target: .ipv4(address: address.host, port: address.port), transportSecurity: security,
        config: .defaults {
          $0.http2.authority = certificates == nil ? nil : name?.text
          $0.backoff = .init(
            initial: .milliseconds(50), max: .seconds(1), multiplier: 1.6, jitter: 0.2)
          $0.connection.flushCoalescing = nil
        })
      let client = GRPCClient(transport: transport)
      self.client = client
      runner = Task { try await client.runConnections() }
    } catch {
      throw .unavailable("\(error)")
    }
  }

  package func stop() {
    client.beginGracefulShutdown()
    runner.cancel()
    reloading?.cancel()
  }

  private var store: RemoteG2_V1_Store.Client<Transport> { .init(wrapping: client) }

  private func call<Reply: Sendable>(
    _ timeout: Duration, _ body: (CallOptions) async throws -> Reply
  ) async throws(CallError) -> Reply {
    var options = CallOptions.defaults
    options.timeout = timeout
    options.waitForReady = false
    do {
      return try await body(options)
    } catch let error as RPCError {
      switch error.code {
      case .deadlineExceeded: throw .timedOut
      case .failedPrecondition: throw .starting
      case .unavailable: throw .unavailable(error.message)
      default: throw .invalid("\(error.code): \(error.message)")
      }
    } catch {
      throw .unavailable("\(error)")
    }
  }

  // MARK: Calls

  package func handshake(
    as fingerprint: Fingerprint, name: String, incarnation: Incarnation, timeout: Duration
  ) async throws(CallError) -> Introduction {
    let request = RemoteG2_V1_HandshakeRequest.with {
      $0.fingerprint = fingerprint.message
      $0.name = name
      $0.incarnation = incarnation.message
    }
    let reply = try await call(timeout) { try await self.store.handshake(request, options: $0) }
    return Introduction(
      incarnation: Incarnation(reply.incarnation), name: PeerName(reply.name),
      fingerprint: Fingerprint(reply.fingerprint),
      pools: reply.pools.map {
        RankPool(
          metadata: Array($0.metadata), address: $0.address,
          slotCount: Int(Int32(clamping: $0.slotCount)), blockBytes: Int(clamping: $0.blockBytes))
      }, process: Int32(clamping: reply.process))
  }

  package func resolve(
    _ keys: [BlockKey], as lease: LeaseID, ttl: Duration?, timeout: Duration
  ) async throws(CallError) -> ResolveAnswer {
    let request = RemoteG2_V1_ResolveRequest.with {
      $0.incarnation = lease.owner.message
      $0.holder = lease.holder.message
      $0.lease = lease.serial
      $0.keys = keys.map(\.message)
      $0.ttlNs = ttl?.nanoseconds ?? 0
    }
    let reply = try await call(timeout) { try await self.store.resolve(request, options: $0) }
    return ResolveAnswer(reply, as: lease)
  }

  package func renew(
    _ lease: LeaseID, ttl: Duration?, timeout: Duration
  ) async throws(CallError) -> RenewAnswer {
    let request = leaseRequest(lease, ttl: ttl)
    let reply = try await call(timeout) { try await self.store.renew(request, options: $0) }
    return reply.gone ? .gone : .renewed(ttl: .nanoseconds(reply.ttlNs))
  }

  package func confirm(
    _ lease: LeaseID, timeout: Duration
  ) async throws(CallError) -> ConfirmAnswer {
    let request = leaseRequest(lease, ttl: nil)
    let reply = try await call(timeout) { try await self.store.confirm(request, options: $0) }
    return reply.gone ? .gone : .intact(Int(Int32(clamping: reply.intact)))
  }

  package func release(
    _ lease: LeaseID, timeout: Duration
  ) async throws(CallError) -> ReleaseAnswer {
    let request = leaseRequest(lease, ttl: nil)
    let reply = try await call(timeout) { try await self.store.release(request, options: $0) }
    return reply.gone ? .gone : reply.alreadyEnded ? .alreadyEnded : .released
  }

  package func stats(timeout: Duration) async throws(CallError) -> (Incarnation, StoreStats) {
    let reply = try await call(timeout) { try await self.store.stats(.init(), options: $0) }
    var stats = StoreStats()
    stats.slots = Int(clamping: reply.slots)
    stats.free = Int(clamping: reply.free)
    stats.writing = Int(clamping: reply.writing)
    stats.sealed = Int(clamping: reply.sealed)
    stats.pinned = Int(clamping: reply.pinned)
    stats.leases = Int(clamping: reply.leases)
    stats.granted = reply.granted
    stats.released = reply.released
    stats.expired = reply.expired
    stats.evicted = reply.evicted
    return (Incarnation(reply.incarnation), stats)
  }

  private func leaseRequest(_ lease: LeaseID, ttl: Duration?) -> RemoteG2_V1_LeaseRequest {
    .with {
      $0.incarnation = lease.owner.message
      $0.holder = lease.holder.message
      $0.lease = lease.serial
      $0.ttlNs = ttl?.nanoseconds ?? 0
    }
  }
}

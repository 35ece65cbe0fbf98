internal import GRPCCore
internal import GRPCNIOTransportHTTP2Posix
package import RemoteG2Core
internal import SwiftProtobuf

/// Where a store's control service listens.
package enum StoreAddress: Hashable, Sendable, CustomStringConvertible {
  case tcp(host: String, port: Int)
  case unix(path: String)

  package var description: String {
    switch self {
    case .tcp(let host, let port): "\(host):\(port)"
    case .unix(let path): path
    }
  }
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

  package init(_ address: StoreAddress) throws(CallError) {
    self.address = address
    do {
      let target: any ResolvableTarget =
        switch address {
        case .tcp(let host, let port): .ipv4(address: host, port: port)
        case .unix(let path): .unixDomainSocket(path: path, authority: "localhost")
        }
      // One's own store is back within a second of its death; an attempt on this machine costs nothing.
      let isLocal = if case .unix = address { true } else { false }
      let transport = try Transport(
        target: target, transportSecurity: .plaintext,
        config: .defaults {
          $0.backoff = .init(
            initial: .milliseconds(isLocal ? 20 : 50),
            max: isLocal ? .milliseconds(50) : .seconds(1),
            multiplier: 1.6, jitter: 0.2)
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
  }

  private var store: RemoteG2_V1_Store.Client<Transport> { .init(wrapping: client) }
  private var local: RemoteG2_V1_LocalStore.Client<Transport> { .init(wrapping: client) }

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

  // MARK: For peers and the local engine

  package func handshake(
    as fingerprint: Fingerprint, name: String, incarnation: Incarnation, timeout: Duration
  ) async throws(CallError) -> Introduction {
    let request = RemoteG2_V1_HandshakeRequest.with {
      $0.fingerprint = fingerprint.wire
      $0.name = name
      $0.incarnation = incarnation.wire
    }
    let reply = try await call(timeout) { try await self.store.handshake(request, options: $0) }
    return Introduction(
      incarnation: Incarnation(reply.incarnation), name: reply.name,
      fingerprint: Fingerprint(reply.fingerprint),
      pools: reply.pools.map {
        RankPool(
          metadata: Array($0.metadata), address: $0.address,
          slotCount: Int(Int32(clamping: $0.slotCount)), blockBytes: Int(clamping: $0.blockBytes))
      }, process: Int32(clamping: reply.process))
  }

  package func resolve(
    _ keys: [BlockKey], from incarnation: Incarnation, ttl: Duration?, timeout: Duration
  ) async throws(CallError) -> ResolveAnswer {
    let request = RemoteG2_V1_ResolveRequest.with {
      $0.incarnation = incarnation.wire
      $0.keys = keys.map(\.wire)
      $0.ttlNs = ttl?.nanoseconds ?? 0
    }
    let reply = try await call(timeout) { try await self.store.resolve(request, options: $0) }
    return ResolveAnswer(reply, from: incarnation)
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
      $0.incarnation = lease.owner.wire
      $0.lease = lease.serial
      $0.ttlNs = ttl?.nanoseconds ?? 0
    }
  }
}

// MARK: For the local engine only

extension StoreClient {
  package func attach(timeout: Duration) async throws(CallError) -> Attachment {
    let reply = try await call(timeout) { try await self.local.attach(.init(), options: $0) }
    return Attachment(
      incarnation: Incarnation(reply.incarnation), process: Int32(clamping: reply.process),
      fingerprint: Fingerprint(reply.fingerprint), descriptors: reply.descriptors,
      slotCount: Int(Int32(clamping: reply.slotCount)),
      blockBytes: Int(clamping: reply.blockBytes), headerBytes: Int(clamping: reply.headerBytes))
  }

  package func reserve(
    _ keys: [BlockKey], of incarnation: Incarnation, timeout: Duration
  ) async throws(CallError) -> [Reservation] {
    let request = RemoteG2_V1_ReserveRequest.with {
      $0.incarnation = incarnation.wire
      $0.keys = keys.map(\.wire)
    }
    let reply = try await call(timeout) { try await self.local.reserve(request, options: $0) }
    return reply.reservations.map {
      switch $0.outcome {
      case .reserved:
        .reserved(SlotIndex(Int(Int32(clamping: $0.slot))), generation: $0.generation)
      case .present: .present
      case .full, .UNRECOGNIZED: .full
      }
    }
  }

  package func seal(
    _ slots: [SealedSlot], rank: Int, of incarnation: Incarnation, timeout: Duration
  ) async throws(CallError) -> Int {
    let request = RemoteG2_V1_SealRequest.with {
      $0.incarnation = incarnation.wire
      $0.rank = UInt32(rank)
      $0.slots = slots.map { slot in
        .with {
          $0.slot = UInt32(slot.slot.value)
          $0.generation = slot.generation
          $0.digest = slot.digest.wire
        }
      }
    }
    let reply = try await call(timeout) { try await self.local.seal(request, options: $0) }
    return Int(Int32(clamping: reply.sealed))
  }

  package func evictUnpinned(timeout: Duration) async throws(CallError) -> Int {
    let reply = try await call(timeout) { try await self.local.evict(.init(), options: $0) }
    return Int(Int32(clamping: reply.evicted))
  }
}

internal import GRPCCore
internal import RemoteG2Core
internal import SwiftProtobuf

/// Answers the calls of peers, over any backend. Bounds what a peer may ask before anything is done for it.
struct StoreCalls: RemoteG2_V1_Store.SimpleServiceProtocol {
  let backend: any StoreBackend
  let limits: Limits

  func handshake(
    request: RemoteG2_V1_HandshakeRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_HandshakeReply {
    guard let introduction = backend.introduce(to: Fingerprint(request.fingerprint)) else {
      throw RPCError(code: .failedPrecondition, message: "the store is starting")
    }
    return .with { reply in
      reply.incarnation = introduction.incarnation.message
      reply.name = introduction.name.text
      reply.fingerprint = introduction.fingerprint.message
      reply.process = Int64(introduction.process)
      reply.pools = introduction.pools.map { pool in
        .with {
          $0.metadata = .init(pool.metadata)
          $0.address = pool.address
          $0.slotCount = UInt32(pool.slotCount)
          $0.blockBytes = UInt64(pool.blockBytes)
        }
      }
    }
  }

  func resolve(
    request: RemoteG2_V1_ResolveRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_ResolveReply {
    guard request.keys.count <= limits.blocksPerFetchMax else {
      return ResolveAnswer.refused(.invalid).message
    }
    let lease = LeaseID(
      serial: request.lease, owner: Incarnation(request.incarnation),
      holder: Incarnation(request.holder))
    return backend.resolve(
      request.keys.map { BlockKey($0) }, as: lease,
      ttl: Duration(messageNanoseconds: request.ttlNs)
    ).message
  }

  func renew(
    request: RemoteG2_V1_LeaseRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_RenewReply {
    let answer = backend.renew(lease(request), ttl: Duration(messageNanoseconds: request.ttlNs))
    return .with {
      switch answer {
      case .renewed(let ttl): $0.ttlNs = ttl.nanoseconds
      case .gone: $0.gone = true
      }
    }
  }

  func confirm(
    request: RemoteG2_V1_LeaseRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_ConfirmReply {
    let answer = backend.confirm(lease(request))
    return .with {
      switch answer {
      case .intact(let count): $0.intact = UInt32(count)
      case .gone: $0.gone = true
      }
    }
  }

  func release(
    request: RemoteG2_V1_LeaseRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_ReleaseReply {
    let answer = backend.release(lease(request))
    return .with {
      $0.alreadyEnded = answer == .alreadyEnded
      $0.gone = answer == .gone
    }
  }

  func stats(
    request: RemoteG2_V1_StatsRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_StatsReply {
    let (incarnation, stats) = backend.stats()
    return .with {
      $0.incarnation = incarnation.message
      $0.slots = UInt64(stats.slots)
      $0.free = UInt64(stats.free)
      $0.writing = UInt64(stats.writing)
      $0.sealed = UInt64(stats.sealed)
      $0.pinned = UInt64(stats.pinned)
      $0.leases = UInt64(stats.leases)
      $0.granted = stats.granted
      $0.released = stats.released
      $0.expired = stats.expired
      $0.evicted = stats.evicted
    }
  }

  private func lease(_ request: RemoteG2_V1_LeaseRequest) -> LeaseID {
    LeaseID(
      serial: request.lease, owner: Incarnation(request.incarnation),
      holder: Incarnation(request.holder))
  }
}

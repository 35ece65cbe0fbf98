internal import GRPCCore
internal import RemoteG2Core
internal import SwiftProtobuf

/// The peers' service over any backend. Bounds what a peer may ask before anything is done for it.
struct StoreService: RemoteG2_V1_Store.SimpleServiceProtocol {
  let backend: any StoreBackend
  let limits: Limits

  func handshake(
    request: RemoteG2_V1_HandshakeRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_HandshakeReply {
    guard let introduction = backend.introduce(to: Fingerprint(request.fingerprint)) else {
      throw RPCError(code: .failedPrecondition, message: "the store is starting")
    }
    return .with { reply in
      reply.incarnation = introduction.incarnation.wire
      reply.name = introduction.name
      reply.fingerprint = introduction.fingerprint.wire
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
      return ResolveAnswer.refused(.invalid).wire
    }
    return backend.resolve(
      request.keys.map { BlockKey($0) }, by: Incarnation(request.incarnation),
      ttl: Duration(wireNanoseconds: request.ttlNs)
    ).wire
  }

  func renew(
    request: RemoteG2_V1_LeaseRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_RenewReply {
    let answer = backend.renew(lease(request), ttl: Duration(wireNanoseconds: request.ttlNs))
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
      $0.incarnation = incarnation.wire
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
    LeaseID(serial: request.lease, owner: Incarnation(request.incarnation))
  }
}

/// The local engine's service.
struct LocalStoreService: RemoteG2_V1_LocalStore.SimpleServiceProtocol {
  let backend: any StoreBackend
  let limits: Limits

  func attach(
    request: RemoteG2_V1_AttachRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_AttachReply {
    let attachment = backend.attach()
    return .with {
      $0.incarnation = attachment.incarnation.wire
      $0.process = Int64(attachment.process)
      $0.fingerprint = attachment.fingerprint.wire
      $0.descriptors = attachment.descriptors
      $0.slotCount = UInt32(attachment.slotCount)
      $0.blockBytes = UInt64(attachment.blockBytes)
      $0.headerBytes = UInt64(attachment.headerBytes)
    }
  }

  func reserve(
    request: RemoteG2_V1_ReserveRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_ReserveReply {
    guard request.keys.count <= limits.blocksPerFetchMax else {
      throw RPCError(code: .invalidArgument, message: "too many keys in one reserve")
    }
    let answers = backend.reserve(
      request.keys.map { BlockKey($0) }, by: Incarnation(request.incarnation))
    return .with { reply in
      reply.reservations = answers.map { answer in
        .with {
          switch answer {
          case .reserved(let slot, let generation):
            $0.outcome = .reserved
            $0.slot = UInt32(slot.value)
            $0.generation = generation
          case .present: $0.outcome = .present
          case .full: $0.outcome = .full
          }
        }
      }
    }
  }

  func seal(
    request: RemoteG2_V1_SealRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_SealReply {
    let slots = request.slots.map {
      SealedSlot(
        slot: SlotIndex(Int(Int32(clamping: $0.slot))), generation: $0.generation,
        digest: Digest128($0.digest))
    }
    let count = backend.seal(
      slots, rank: Int(Int32(clamping: request.rank)), by: Incarnation(request.incarnation))
    return .with { $0.sealed = UInt32(count) }
  }

  func evict(
    request: RemoteG2_V1_EvictRequest, context: ServerContext
  ) async throws -> RemoteG2_V1_EvictReply {
    let count = backend.evictUnpinned()
    return .with { $0.evicted = UInt32(count) }
  }
}

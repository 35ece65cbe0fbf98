internal import RemoteG2Core
internal import SwiftProtobuf

extension Incarnation {
  var message: RemoteG2_V1_Incarnation {
    .with {
      $0.high = high
      $0.low = low
    }
  }
  init(_ message: RemoteG2_V1_Incarnation) { self.init(high: message.high, low: message.low) }
}

extension BlockKey {
  var message: RemoteG2_V1_BlockKey {
    .with {
      $0.high = high
      $0.low = low
    }
  }
  init(_ message: RemoteG2_V1_BlockKey) { self.init(high: message.high, low: message.low) }
}

extension Digest128 {
  var message: RemoteG2_V1_Digest {
    .with {
      $0.high = high
      $0.low = low
    }
  }
  init(_ message: RemoteG2_V1_Digest) { self.init(high: message.high, low: message.low) }
}

extension Fingerprint {
  var message: RemoteG2_V1_Fingerprint {
    .with {
      $0.protocolVersion = protocolVersion
      $0.modelDigest = modelDigest
      $0.weightEpoch = weightEpoch
      $0.layout = layout
      $0.hashScheme = hashScheme
      $0.rankCount = rankCount
      $0.numerics = numerics
    }
  }
  init(_ message: RemoteG2_V1_Fingerprint) {
    self.init(
      protocolVersion: message.protocolVersion, modelDigest: message.modelDigest,
      weightEpoch: message.weightEpoch, layout: message.layout, hashScheme: message.hashScheme,
      rankCount: message.rankCount, numerics: message.numerics)
  }
}

extension Duration {
  /// Zero or negative in a message means "the default".
  init?(messageNanoseconds: Int64) {
    guard messageNanoseconds > 0 else { return nil }
    self = .nanoseconds(messageNanoseconds)
  }
}

extension ResolveAnswer {
  var message: RemoteG2_V1_ResolveReply {
    switch self {
    case .refused(let refusal):
      return .with {
        $0.refusal =
          switch refusal {
          case .gone: .gone
          case .overBudget: .overBudget
          case .invalid: .invalid
          }
      }
    case .granted(let grant):
      return .with { reply in
        reply.ttlNs = grant.ttl.nanoseconds
        reply.blocks = grant.blocks.map { block in
          .with {
            $0.slot = UInt32(block.slot.value)
            $0.generation = block.generation
            $0.digests = block.digests.map { ($0 ?? Digest128(high: 0, low: 0)).message }
          }
        }
      }
    }
  }

  init(_ message: RemoteG2_V1_ResolveReply, as lease: LeaseID) {
    switch message.refusal {
    case .none:
      let blocks = message.blocks.map { block in
        GrantedBlock(
          slot: SlotIndex(Int(Int32(clamping: block.slot))), generation: block.generation,
          digests: block.digests.map { Digest128($0) })
      }
      self = .granted(
        Grant(
          lease: lease,
          ttl: Duration(messageNanoseconds: message.ttlNs) ?? .zero, blocks: blocks))
    case .gone: self = .refused(.gone)
    case .overBudget: self = .refused(.overBudget)
    case .invalid, .UNRECOGNIZED: self = .refused(.invalid)
    }
  }
}

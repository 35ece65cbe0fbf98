package import Collectives
internal import Glibc
package import KVConnector
internal import KVLayout
package import KVTransfer
internal import Linear
package import LlamaModel
internal import LocalStore
package import NIXL
package import OSThreads
package import RemoteG2Core

/// What every rank of a worker has, the leader's included: its shard, its G1, its pump.
package struct RankParts {
  package let rank: Int
  package let model: LlamaModel
  package let identity: ModelIdentity
  package let memory: UnsafeMutableRawPointer
  package let pump: TransferPump
  package let worker: RemoteG2Worker

  /// Loads the model and computes its probe, together with every other rank.
  ///
  /// - Parameters:
  ///   - library: Nil: nothing is pulled from peers.
  ///   - bell: Rung when the pump has news.
  package init(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, incarnation: Incarnation,
    reducer: any TensorReducer, ringing bell: any Bell,
    onTrace: @escaping @Sendable (TransferTrace) -> Void
  ) throws(WorkerError) {
    let rank = reducer.rank
    let team = WorkerTeam(threads: configuration.threads)
    do throws(ModelError) {
      model = try LlamaModel(
        try GGUFFile(path: configuration.modelPath), team: team, reducer: reducer)
    } catch { throw .model(error) }
    do throws(LinearSelfTest.Failure) {
      try LinearSelfTest.run(shapes: model.shapes, team: team)
    } catch { throw .selfTest(error) }
    identity = ModelIdentity(model, path: configuration.modelPath)
    let layout = model.layout
    let byteCount = layout.blockBytes * configuration.blockCount
    let mapping = mmap(
      nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory = mapping, memory != MAP_FAILED else { throw .memory(bytes: byteCount) }
    self.rank = rank
    self.memory = memory
    let region = BlockRegion(
      base: memory, blockBytes: layout.blockBytes, blockCount: configuration.blockCount)
    let limits = configuration.limits
    pump = TransferPump(name: "pump-\(rank)", ringing: bell) {
      let peers: any Transport
      if let library {
        peers = NIXLTransport(
          target: region, library: library, name: "pull-\(incarnation)-\(rank)", limits: limits)
      } else {
        peers = MappedTransport(target: region)
      }
      let injection = Injection()
      let faulty =
        configuration.injectsFaults
        ? FaultyTransport(peers, target: region) { injection.fault(of: $0) } : nil
      let paced = PacedTransport(faulty ?? peers, blockBytes: layout.blockBytes)
      return PumpCore(
        target: region, peers: paced, rank: rank, limits: limits,
        setPace: { paced.bytesPerSecond = $0 }, setFault: { injection.kind = $0 },
        faultsInjected: { faulty?.appliedCount ?? 0 })
    }
    let fingerprint = identity.fingerprint()
    worker = RemoteG2Worker(
      pump: pump, rank: rank,
      open: {
        Self.open($0, $1, rank: rank, as: fingerprint, stagingSlots: limits.stagingSlotsMax)
      }, onTrace: onTrace)
  }

  /// Which transfer of a fetch goes wrong, where one is told to: in the middle of a paced pull, and the
  /// same on every rank, since a group that has seen a failure posts nothing more.
  package static let injectedTransfer = 8

  /// Nil for a store that died between its answer and our mapping; the next visit meets its successor.
  private static func open(
    _ source: SourceID, _ address: SourceAddress, rank: Int, as fingerprint: Fingerprint,
    stagingSlots: Int
  ) -> SourceDescription? {
    switch address {
    case .remote(let metadata, let address, let slotCount, let blockBytes):
      return .nixl(
        metadata: metadata, address: address, slotCount: slotCount, blockBytes: blockBytes)
    case .own(let socket, let engine):
      let hello = LocalHello(
        engine: engine, role: .rank(rank), fingerprint: fingerprint, stagingSlots: stagingSlots)
      guard
        let own = OwnPool.open(
          socket: socket, store: source.incarnation, hello: hello, now: MonotonicClock.now,
          nap: { OSThread.nap($0) })
      else { return nil }
      let shape = own.mapping.shape
      return .mapped(
        BlockRegion(
          base: own.mapping.base, blockBytes: shape.blockBytes, blockCount: shape.slotCount),
        words: own.mapping.words, link: own.link, owner: own.mapping)
    }
  }
}

/// What a demonstration lets go wrong on this rank. Used by its pump's thread only.
private final class Injection {
  var kind: TransferFault?

  func fault(of transfer: TransferID) -> TransferFault? {
    transfer.ordinal == RankParts.injectedTransfer ? kind : nil
  }
}

package import Collectives
internal import Glibc
internal import KVConnector
internal import KVLayout
package import KVTransfer
package import KVWorker
internal import Linear
package import LlamaModel
package import NIXL
internal import NIXLTransfer
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
  ///   - rigging: Nil where the worker serves.
  package init(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, incarnation: Incarnation,
    reducer: any TensorReducer, ringing bell: any Bell, rigging: PumpRigging?
  ) throws(WorkerError) {
    let rank = reducer.rank
    let team = ThreadTeam(threads: configuration.threads)
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
      return PumpCore(
        target: region, peers: peers, rank: rank, limits: limits, rigging: rigging)
    }
    let opener = SourceOpener(
      rank: rank, fingerprint: identity.fingerprint(), stagingSlots: limits.stagingSlotsMax,
      blockBytes: layout.blockBytes)
    worker = RemoteG2Worker(pump: pump, rank: rank, open: opener.open)
  }
}

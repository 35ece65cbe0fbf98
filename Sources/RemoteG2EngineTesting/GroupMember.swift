package import Collectives
package import KVLayout
internal import KVTransfer
internal import Linear
package import LlamaModel
package import LlamaModelTesting
internal import LocalStore
internal import OSThreads
package import RemoteG2Core
package import RemoteG2Engine
package import Simulation
package import TransferRig

/// A sharded model, as the engine takes it.
package final class ShardForward: ForwardPass {
  package let model: LlamaModel
  package init(_ model: LlamaModel) { self.model = model }
  package var layout: BlockLayout { model.layout }
  package var contextLength: Int { model.configuration.contextLength }
  package var vocabularySize: Int { model.configuration.vocabularySize }
  package var endTokens: Set<Int32> { [] }
  package func forward(_ spans: [SequenceSpan], pool: UnsafeMutableRawPointer) -> [[Float]] {
    model.forward(spans, pool: pool)
  }
}

/// What goes wrong with the transfers of some ranks.
package struct GroupFault: Sendable {
  package enum Kind: String, CaseIterable, Sendable {
    case failsAtPost, failsMidway, hangs, isSlow, isCorrupt, losesItsSource

    package var transfer: TransferFault {
      switch self {
      case .failsAtPost: .failAtPost
      case .failsMidway: .halfComplete
      case .hangs: .hang
      case .isSlow: .slow
      case .isCorrupt: .corrupt
      case .losesItsSource: .peerGone
      }
    }
  }

  package let kind: Kind
  package let ranks: Set<Int>

  /// Whether every rank fails at another transfer, the last rank first, or all at the same.
  private let isStaggered: Bool

  package init(_ kind: Kind, on ranks: Set<Int>, isStaggered: Bool = false) {
    self.kind = kind
    self.ranks = ranks
    self.isStaggered = isStaggered
  }

  /// Of one transfer, in a group of the tests.
  package static let blocksPerTransfer = 2

  /// One transfer goes wrong; a slow rank is slow throughout.
  func of(_ transfer: TransferID, rank: Int) -> TransferFault? {
    ranks.contains(rank) && (transfer.ordinal == ordinal(rank) || kind == .isSlow)
      ? kind.transfer : nil
  }

  private func ordinal(_ rank: Int) -> Int { isStaggered ? 5 - rank : 2 }

  /// How many blocks of `whole` the group may keep.
  package func kept(of whole: Int) -> ClosedRange<Int> {
    let before = (ranks.map(ordinal).min() ?? 0) * Self.blocksPerTransfer
    switch kind {
    case .failsAtPost, .failsMidway, .hangs, .losesItsSource: return before...before
    // Of the corrupt transfer itself, the blocks before the wrong byte.
    case .isCorrupt: return before...before + Self.blocksPerTransfer - 1
    case .isSlow: return whole...whole
    }
  }
}

/// One rank: its shard of a tiny Llama, its G1, its pump, and the source's pool of the same rank.
package final class GroupMember: @unchecked Sendable {
  // @unchecked: the rank's own thread uses it while that thread runs, a test after it has ended.
  package static let incarnation = Incarnation(high: 1, low: 1)
  package static let peer = SourceID.peer(name: "P", incarnation)
  /// The same pool, as the store that the group's own blocks are saved to.
  package static let local = SourceID.local(incarnation)
  package static let blockCount = 48
  package static let slotCount = 64
  package static let start = LocalInstant(nanoseconds: 20_000_000_000)

  package let model: ShardForward
  package let memory: BlockMemory
  package let faulty: FaultyTransport
  package let worker: ToyWorker
  package let clock: ToyClock
  private let fabric = MemoryFabric()
  private let error: ClockError

  /// Heads that `ranks` can share.
  package static func model(_ ranks: Int) -> TinyLlama {
    var tiny = TinyLlama()
    if ranks == 3 { (tiny.heads, tiny.kvHeads) = (9, 3) }
    return tiny
  }

  /// - Parameter refusals: How often this rank cannot open an address before it can.
  package init(
    reducer: any TensorReducer, fault: GroupFault? = nil, error: ClockError = ClockError(),
    refusals: Int = 0, limits: Limits = Limits()
  ) throws {
    let rank = reducer.rank
    model = ShardForward(
      try LlamaModel(
        try Self.model(reducer.rankCount).open(), tokensPerBlock: 4, team: ThreadTeam(threads: 1),
        reducer: reducer))
    let bytes = model.layout.blockBytes
    memory = BlockMemory(blockBytes: bytes, blockCount: Self.blockCount)
    faulty = FaultyTransport(
      MemoryTransport(target: memory.region, fabric: fabric, blocksPerPoll: 1),
      target: memory.region, fault: { fault?.of($0, rank: rank) })
    let pump = PumpCore(
      target: memory.region, peers: faulty, rank: rank, limits: limits,
      transferBlocksMax: GroupFault.blocksPerTransfer)
    let clock = ToyClock()
    self.clock = clock
    self.error = error
    var refusalsLeft = refusals
    let (fabric, ranks) = (fabric, reducer.rankCount)
    let memory = memory
    worker = ToyWorker(pump, clock: clock, rank: rank) { source, address in
      guard refusalsLeft == 0 else {
        refusalsLeft -= 1
        return nil
      }
      switch address {
      case .own(let socket, let engine):
        let hello = LocalHello(
          engine: engine, role: .rank(rank), fingerprint: ToyControl.fingerprint(ranks: ranks),
          stagingSlots: 8)
        guard
          let own = OwnPool.open(
            socket: socket, store: source.incarnation, hello: hello,
            now: { LocalInstant(nanoseconds: 0) }, nap: { OSThread.nap($0) })
        else { return nil }
        let region = BlockRegion(
          base: own.mapping.base, blockBytes: bytes, blockCount: own.mapping.shape.slotCount)
        // The peer's pool is the same one: what was saved there can be pulled from there.
        fabric.publish(Self.peer, region, owner: own.mapping)
        return .mapped(region, words: own.mapping.words, link: own.link, owner: own.mapping)
      case .remote:
        return address == Self.address(of: rank, blockBytes: bytes)
          ? .mapped(
            BlockRegion(base: memory.region.base, blockBytes: bytes, blockCount: 1), owner: 0)
          : nil
      }
    }
    setClock(Self.start)
  }

  /// Where a store of the tests has one rank's pool. No rank opens another's.
  package static func address(of rank: Int, blockBytes: Int) -> SourceAddress {
    .remote(
      RankPool(
        metadata: [], address: UInt64(rank), slotCount: Self.slotCount, blockBytes: blockBytes))
  }

  /// Follows the leader's clock, as wrongly as it was told to.
  package func setClock(_ leader: LocalInstant) {
    let drifted = Double(leader.nanoseconds) * (1 + error.drift)
    clock.now = LocalInstant(nanoseconds: Int64(drifted)) + error.offset
  }

  /// Obeys a leader until the group ends. For ranks above 0.
  package func follow<Channel: StepChannel>(_ channel: Channel)
  where Channel.Plan == StepPlan, Channel.Report == RankReport {
    let loop = RankLoop(
      model: model, memory: memory.region.base, channel: channel, worker: worker,
      clock: { [clock] in clock.now })
    var now = Self.start
    repeat {
      now = now + .milliseconds(1)
      setClock(now)
    } while loop.step()
  }
}

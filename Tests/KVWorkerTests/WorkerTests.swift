import KVConnector
import KVTransfer
import KVWorker
import RemoteG2Core
import Simulation
import Testing
import TransferRig

@Suite struct `A rank's worker half` {
  private final class Listener: PumpPort, @unchecked Sendable {
    // @unchecked: one test, one thread.
    var orders: [PumpOrder] = []
    var stats = PumpStats()
    func post(_ order: PumpOrder) { orders.append(order) }
    func takeReport() -> PumpReport { PumpReport() }
  }

  @Test(arguments: [0, 1, 2])
  func `has a rig that obeys what is ordered of its rank, and of all, and nothing else`(rank: Int) {
    let memory = BlockMemory(blockBytes: 64, blockCount: 16)
    let rig = TransferRig(
      MappedTransport(target: memory.region), target: memory.region, rank: rank, breaks: true
    ) { _ in }
    func obeys(_ order: RigOrder) -> PumpTuning { rig.obey(order.bytes) }
    let paced = PumpTuning(postedMax: 1, transferBlocksMax: 2)
    #expect(obeys(.pace(bytesPerSecond: 5, transferBlocks: 2, ranks: nil)) == paced)
    #expect(rig.bytesPerSecond == 5)
    let some = obeys(.pace(bytesPerSecond: 5, transferBlocks: 2, ranks: [1, 2]))
    #expect(some == (rank == 0 ? PumpTuning(transferBlocksMax: 2) : paced))
    #expect(rig.bytesPerSecond == (rank == 0 ? nil : 5))
    _ = obeys(.inject(.hang, ranks: [0, 2]))
    #expect(rig.fault == (rank == 1 ? nil : .hang))
    _ = obeys(.inject(nil, ranks: [0, 1, 2]))
    #expect(rig.fault == nil)
  }

  @Test func `hands an order to a rig on as it is, and a pump without one ignores it`() {
    let pump = Listener()
    RemoteG2Worker(pump: pump, rank: 1).begin([.rig([7, 7])])
    guard case .rank(.rig([7, 7]))? = pump.orders.first else {
      Issue.record("the pump was told \(pump.orders)")
      return
    }
    let memory = BlockMemory(blockBytes: 64, blockCount: 16)
    let core = PumpCore(
      target: memory.region, peers: MappedTransport(target: memory.region), rank: 1,
      limits: Limits())
    core.handle(.rank(.rig([7, 7])), at: LocalInstant(nanoseconds: 0))
    #expect(core.isIdle && core.stats == PumpStats())
  }

  @Test
  func `a source without an address for this rank, or one that is gone, is told as not attached`() {
    let source = SourceID.local(Incarnation(high: 1, low: 1))
    let address = SourceAddress.own(socket: "x", engine: Incarnation(high: 1, low: 1))
    let pump = Listener()
    let alone = RemoteG2Worker(pump: pump, rank: 1)
    alone.begin([.attach(7, source, [address])])
    #expect(alone.end(rank: 1, sequence: 1).attached == [7: false])
    alone.begin([.attach(8, source, [address, address])])
    #expect(alone.end(rank: 1, sequence: 2).attached == [8: false])
    #expect(alone.end(rank: 1, sequence: 3).attached.isEmpty, "it is told once")
    #expect(pump.orders.isEmpty)
  }

  @Test func `what a rank's transfers did is in its report`() {
    let pump = Listener()
    pump.stats.counts.transfersInFlight = 3
    pump.stats.counts.bytesLate = 7
    pump.stats.counts.rigCount = 2
    let report = RemoteG2Worker(pump: pump, rank: 0).end(rank: 0, sequence: 9)
    #expect(report.counts == pump.stats.counts && report.sequence == 9)
  }
}

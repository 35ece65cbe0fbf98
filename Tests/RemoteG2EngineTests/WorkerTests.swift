import KVConnector
import KVTransfer
import RemoteG2Core
import Testing

@Suite struct `A rank's worker half` {
  private final class Listener: PumpPort, @unchecked Sendable {
    // @unchecked: one test, one thread.
    var orders: [PumpOrder] = []
    var stats = PumpStats()
    func post(_ order: PumpOrder) { orders.append(order) }
    func takeReport() -> PumpReport { PumpReport() }
  }

  @Test(arguments: [0, 1, 2])
  func `obeys what is ordered of its rank, and of all, and nothing else`(
    rank: Int
  ) {
    let pump = Listener()
    let worker = RemoteG2Worker(pump: pump, rank: rank)
    // Nil: no such order was given to the pump.
    func obeyed(_ order: RankOrder) -> (pace: Double??, fault: TransferFault??) {
      pump.orders = []
      worker.begin([order])
      var found: (Double??, TransferFault??) = (nil, nil)
      for order in pump.orders {
        if case .pace(let rate) = order { found.0 = .some(rate) }
        if case .inject(let fault) = order { found.1 = .some(fault) }
      }
      return found
    }
    #expect(obeyed(.pace(bytesPerSecond: 5, transferBlocks: 2, ranks: nil)).pace == .some(5))
    #expect(
      obeyed(.pace(bytesPerSecond: 5, transferBlocks: 2, ranks: [1, 2])).pace
        == .some(rank == 0 ? nil : 5))
    #expect(
      obeyed(.inject(fault: TransferFault.hang.rawValue, ranks: [0, 2])).fault
        == .some(rank == 1 ? nil : .hang))
    #expect(obeyed(.inject(fault: nil, ranks: [0, 1, 2])).fault == .some(nil))
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
    pump.stats.counts.faultsInjected = 2
    let report = RemoteG2Worker(pump: pump, rank: 0).end(rank: 0, sequence: 9)
    #expect(report.counts == pump.stats.counts && report.sequence == 9)
  }
}

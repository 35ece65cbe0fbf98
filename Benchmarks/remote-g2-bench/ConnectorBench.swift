import CAllocations
import Foundation
import KVConnector
import KVTransfer
import KVWorker
import OSThreads
import Processes
import RemoteG2Core

/// (b) What the connector costs the step loop a step, with loads that stay in flight: the scheduler
/// half (plan, absorb, next deadline), and the worker half (orders to the pump, news from it) over a
/// pump whose transport never lands anything.
enum ConnectorBench {
  private final class Silent: SourceControl, @unchecked Sendable {
    // @unchecked: one thread uses it.
    let incarnation = Incarnation(high: 5, low: 5)
    let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
    var answers: [ControlAnswer] = []
    func state(ofPeer name: PeerName) -> PeerState { .ready(source) }
    var localStore: SourceID? { nil }
    func drain() -> [ControlAnswer] {
      let taken = answers
      answers = []
      return taken
    }
    func post(_ request: ControlRequest) {
      guard case .resolve(let fetch, _, let lease, let keys, _) = request else { return }
      let blocks = keys.indices.map {
        GrantedBlock(slot: SlotIndex($0), generation: 1, digests: [nil])
      }
      answers.append(
        .resolved(
          fetch, .granted(Grant(lease: lease, ttl: .seconds(30), blocks: blocks)),
          after: .milliseconds(1)))
    }
  }

  /// Takes every read and lands none.
  private final class Endless: Transport {
    private var posted = 0
    func attach(_: SourceID, _: SourceDescription) throws(TransferFailure) {}
    func detach(_ source: SourceID) {}
    func post(
      _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
    ) throws(TransferFailure) { posted += 1 }
    func poll(at now: LocalInstant, into events: inout [TransferEvent]) {}
    func fence(_ source: SourceID) {}
    var inFlightCount: Int { posted }
    func shutDown() { posted = 0 }
  }

  static func run() throws {
    print("\n(b) connector cost per step: 10,000 steps each, loads of 16 blocks that never land")
    for loads in [0, 1, 64] {
      let control = Silent()
      let blockBytes = 4096
      let limits = Limits {
        $0.fetchesInFlightMax = 128
        $0.fetchesPerPeerMax = 128
      }
      let settings = try ConnectorSettings(
        blockBytes: blockBytes, tokensPerBlock: 16, targetBlockCount: 2048, limits: limits,
        pullsByCost: false)
      let connector = RemoteG2Connector(control: control, settings: settings)
      var now = LocalInstant(nanoseconds: 1)
      control.answers.append(
        .announced(control.source, [.own(socket: "", engine: control.incarnation)]))
      _ = connector.absorb([], at: now)
      guard case .attach(let number, _, _)? = connector.plan(at: now).first else { return }
      var attach = RankReport(rank: 0, sequence: 0)
      attach.attached = [number: true]
      _ = connector.absorb([attach], at: now)
      for load in 0..<loads {
        let view = RequestView(
          id: RequestID(UInt64(load + 1)),
          keys: (0..<16).map { BlockKey(high: UInt64(load), low: UInt64($0)) }, blocksMax: 16,
          hint: try Hint(version: 1, store: "P", blocksMax: nil, limits: limits))
        _ = connector.match(view, computed: 0, at: now)
        _ = connector.absorb([], at: now)
        guard case .available(let count) = connector.match(view, computed: 0, at: now) else {
          return
        }
        connector.bind(
          view.id, to: (0..<count).map { BlockIndex(load * 16 + $0) }, at: now)
      }
      let memory = UnsafeMutableRawPointer.allocate(
        byteCount: blockBytes * 2048, alignment: 4096)
      defer { memory.deallocate() }
      let target = BlockRegion(base: memory, blockBytes: blockBytes, blockCount: 2048)
      let pump = TransferPump(name: "bench-pump", ringing: Doorbell()) { [limits] in
        PumpCore(target: target, peers: Endless(), rank: 0, limits: limits)
      }
      let worker = RemoteG2Worker(pump: pump)
      worker.begin(connector.plan(at: now))
      let steps = 10_000
      let reports = [RankReport(rank: 0, sequence: 1)]
      let empty = measure(steps) { now = now + .nanoseconds(1) }
      let leader = measure(steps) {
        // A nanosecond a step: no deadline passes.
        now = now + .nanoseconds(1)
        _ = connector.plan(at: now)
        _ = connector.absorb(reports, at: now)
        _ = connector.nextDeadline
      }
      let rank = measure(steps) {
        worker.begin([])
        _ = worker.end(rank: 0, sequence: 1)
      }
      print(
        String(
          format: "  %2d loads: scheduler half %.0f ns, %.1f allocations a step; "
            + "worker half %.0f ns, %.1f; an empty loop %.1f ns", loads, leader.nanoseconds,
          leader.allocations, rank.nanoseconds, rank.allocations, empty.nanoseconds))
      pump.stop()
      for load in 0..<loads { connector.abort(RequestID(UInt64(load + 1)), at: now) }
    }
  }

  private static func measure(
    _ steps: Int, _ body: () -> Void
  ) -> (nanoseconds: Double, allocations: Double) {
    let before = callocations_count()
    let seconds = Bench.seconds { for _ in 0..<steps { body() } }
    let allocations = callocations_count() - before
    return (seconds / Double(steps) * 1e9, Double(allocations) / Double(steps))
  }
}

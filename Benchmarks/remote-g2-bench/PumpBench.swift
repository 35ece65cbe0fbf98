import ContentDigest
import Foundation
import Glibc
import KVTransfer
import OSThreads
import RemoteG2Core
import Synchronization

/// (e) How soon a sleeping pump notices that a transfer has ended, and what hashing what landed costs.
enum PumpBench {
  /// One transfer at a time; it lands when the test says so.
  private final class Gate: Transport, @unchecked Sendable {
    // @unchecked: `open` is atomic; the rest is the pump's thread's.
    let open = Atomic<Bool>(false)
    private var posted: TransferID?
    /// Readable while the gate is open, for a transport that announces its landings.
    private let pipe: [Int32]?
    init(announces: Bool) {
      var ends: [Int32] = [-1, -1]
      pipe = announces && Glibc.pipe(&ends) == 0 ? ends : nil
    }
    deinit { for end in pipe ?? [] { close(end) } }
    var eventDescriptors: [Int32]? { pipe.map { [$0[0]] } }
    func end() {
      open.store(true, ordering: .releasing)
      if let pipe { _ = write(pipe[1], [1], 1) }
    }
    func attach(_: SourceID, _: SourceDescription) throws(TransferFailure) {}
    func detach(_ source: SourceID) {}
    func post(
      _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
    ) throws(TransferFailure) { posted = transfer }
    func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
      guard let transfer = posted, open.load(ordering: .acquiring) else { return }
      posted = nil
      var byte: UInt8 = 0
      if let pipe { _ = read(pipe[0], &byte, 1) }
      events.append(.landed(transfer, at: MonotonicClock.now()))
    }
    func fence(_ source: SourceID) {}
    var inFlightCount: Int { posted == nil ? 0 : 1 }
    func shutDown() {}
  }

  static func run() {
    let bytes = 737_280
    let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes * 8, alignment: 4096)
    defer { memory.deallocate() }
    memset(memory, 3, bytes * 8)
    let target = BlockRegion(base: memory, blockBytes: bytes, blockCount: 8)
    print("\n(e) a sleeping pump notices the end of a transfer after, us p50 / p99 / max:")
    notice("polled    ", target, announces: false)
    notice("announced ", target, announces: true)
    digests(target)
  }

  private static func notice(_ name: String, _ target: BlockRegion, announces: Bool) {
    let gate = Gate(announces: announces)
    let bell = Doorbell()
    let pump = TransferPump(name: "bench-pump", ringing: bell) {
      PumpCore(target: target, peers: gate, rank: 0, limits: Limits())
    }
    let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
    pump.post(.attach(1, source, .mapped(target, owner: 0)))
    var waits: [Double] = []
    for round in 1...200 {
      let fetch = FetchID(UInt64(round))
      gate.open.store(false, ordering: .releasing)
      pump.post(
        .rank(
          .load(
            fetch, from: source, moves: [BlockMove(target: BlockIndex(0), source: SlotIndex(0))],
            stall: nil)))
      // Long enough for its naps to have grown to their longest.
      usleep(50_000)
      let ended = MonotonicClock.now()
      gate.end()
      var landing: LocalInstant?
      while landing == nil {
        bell.wait(atMost: .milliseconds(50))
        landing = pump.takeReport().progress[fetch]?.lastLanding
      }
      pump.post(.rank(.forget(fetch)))
      if let landing { waits.append((landing - ended).inSeconds * 1e6) }
    }
    pump.stop()
    print(
      "  " + name
        + String(
          format: "%.0f / %.0f / %.0f", Bench.quantile(waits, 0.5), Bench.quantile(waits, 0.99),
          waits.max() ?? 0))
  }

  /// What `--digests always` adds: hashing, beside copying the same bytes.
  private static func digests(_ target: BlockRegion) {
    let copy = UnsafeMutableRawPointer.allocate(byteCount: target.blockBytes * 8, alignment: 4096)
    defer { copy.deallocate() }
    memset(copy, 1, target.blockBytes * 8)
    var ratios: [Double] = []
    var rate = 0.0
    for _ in 0..<60 {
      let hashing = Bench.seconds {
        for block in 0..<8 { _ = ContentDigest.of(target.bytes(of: block)) }
      }
      let copying = Bench.seconds { memcpy(copy, target.base, target.blockBytes * 8) }
      ratios.append(hashing / copying)
      rate = max(rate, Double(target.blockBytes * 8) / hashing / 1e9)
    }
    print(
      String(
        format: "  digests: %.2f of the time of memcpy of the same bytes (up to %.1f GB/s)",
        Bench.quantile(ratios, 0.5), rate))
  }
}

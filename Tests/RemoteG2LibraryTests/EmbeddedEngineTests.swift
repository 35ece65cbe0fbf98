import Foundation
import KVConnector
import KVTransfer
import KVWorker
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Library
import Testing

/// What an engine of somebody else's gets by linking `RemoteG2Library` alone. That the library reaches neither
/// a model nor MPI, gRPC or NIXL is checked by the tidy tests.
@Suite(.serialized) struct `An engine that is not ours` {
  static let bytes = 8192
  static let fingerprint = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")
  static let keys = (0..<4).map { BlockKey(high: UInt64($0), low: 5) }

  /// An engine with eight blocks of memory, and a step loop that computes nothing.
  final class Steps {
    let memory: UnsafeMutableRawPointer
    let engine: EmbeddedEngine
    private let bell = Doorbell()
    private var sequence: UInt64 = 0

    init(store path: String) throws {
      memory = .allocate(byteCount: 8 * bytes, alignment: 4096)
      for block in 0..<8 { memset(memory + block * bytes, Int32(block + 1), bytes) }
      engine = EmbeddedEngine(
        name: "other", fingerprint: fingerprint,
        memory: BlockRegion(base: memory, blockBytes: bytes, blockCount: 8),
        settings: try ConnectorSettings(
          blockBytes: bytes, tokensPerBlock: 16, targetBlockCount: 8),
        store: path, ringing: bell)
    }

    deinit { memory.deallocate() }

    var scheduler: RemoteG2Connector { engine.scheduler }

    /// Steps until it holds, ten seconds at most.
    func comes(_ check: (ConnectorOutcome) -> Bool) -> Bool {
      let deadline = MonotonicClock.now() + .seconds(10)
      while MonotonicClock.now() < deadline {
        sequence += 1
        engine.worker.begin(scheduler.plan(at: MonotonicClock.now()))
        let report = engine.worker.end(rank: 0, sequence: sequence)
        if check(scheduler.absorb([report], at: MonotonicClock.now())) { return true }
        bell.wait(atMost: .milliseconds(20))
      }
      return false
    }
  }

  @Test func `saves into its store, loads from it again, and leaves nothing behind`() throws {
    let node = try TestNode("a", memoryBytes: 8 * Self.bytes)
    defer { node.stop() }
    let steps = try Steps(store: node.socket)
    #expect(steps.comes { _ in steps.scheduler.isLocalReady })
    let blocks = Self.keys.enumerated().map { index, key in
      SealedBlock(
        block: BlockIndex(index), key: key, parent: index == 0 ? nil : Self.keys[index - 1])
    }
    #expect(steps.scheduler.sealed(blocks, at: MonotonicClock.now()).count == 4)
    var saved: [BlockIndex] = []
    #expect(
      steps.comes {
        saved += $0.released
        return saved.count == 4
      }, "four blocks are held until they are staged")
    #expect(steps.comes { _ in steps.scheduler.saveOutcomes[.sealed] == 4 })
    // Into the other four blocks.
    let request = RequestView(id: RequestID(1), keys: Self.keys, blocksMax: 4, hint: nil)
    #expect(
      steps.comes { _ in
        steps.scheduler.match(request, computed: 0, at: MonotonicClock.now())
          == .available(blocks: 4)
      })
    #expect(memcmp(steps.memory, steps.memory + 4 * Self.bytes, 4 * Self.bytes) != 0)
    steps.scheduler.bind(
      request.id, to: (4..<8).map { BlockIndex($0) }, at: MonotonicClock.now())
    var settled: [LoadResult] = []
    #expect(
      steps.comes {
        settled += $0.settled
        return !settled.isEmpty
      })
    #expect(settled.first?.valid.count == 4 && settled.first?.reason == nil)
    #expect(memcmp(steps.memory, steps.memory + 4 * Self.bytes, 4 * Self.bytes) == 0)
    steps.scheduler.finish(request.id)
    #expect(steps.comes { _ in steps.scheduler.open == (0, 0, 0) })
    steps.engine.stop()
    #expect(comes { node.held == 0 })
  }
}

import Foundation
import Glibc
import OSThreads
import RemoteG2Core
import RemoteG2Library

/// An engine that owns its memory itself and computes nothing: it saves what is there, and asks.
final class BenchEngine {
  let memory: UnsafeMutableRawPointer
  private let engine: StagedEngine
  private let rank: StagedRank
  private let blockBytes: Int
  private let blockCount: Int
  private var idNext: UInt64 = 1

  init(_ socket: String, blockBytes: Int, blockCount: Int, layers: Int = 1) throws {
    self.blockBytes = blockBytes
    self.blockCount = blockCount
    memory = .allocate(byteCount: blockBytes * blockCount, alignment: 4096)
    memset(memory, 3, blockBytes * blockCount)
    let model = try EngineModel(
      fingerprint: Fingerprint(
        modelDigest: "bench", layout: "\(blockBytes)", hashScheme: "bench", rankCount: 1,
        numerics: "bench"), blockBytes: blockBytes, tokensPerBlock: 16)
    let page = blockBytes / layers
    let all = (0..<layers).map { [memory] layer in
      EnginePages.Layer(base: memory + layer * blockCount * page, stride: page, bytes: page)
    }
    guard let pages = EnginePages(layers: all, blockCount: blockCount) else {
      throw BenchFailure("impossible pages")
    }
    engine = StagedEngine(model, socket: socket)
    rank = try StagedRank(model, rank: 0, socket: socket, pages: pages)
    let deadline = MonotonicClock.now() + .seconds(10)
    while !engine.isAttached {
      guard MonotonicClock.now() < deadline else { throw BenchFailure("no node") }
      engine.wait(atMost: .milliseconds(5))
    }
    step()
  }

  deinit { memory.deallocate() }

  private func step() {
    rank.begin(engine.plan(tokens: 0))
    _ = rank.load()
    rank.stage()
    if let report = rank.takeReport() { engine.absorb([report]) }
  }

  private func nextID() -> RequestID {
    defer { idNext += 1 }
    return RequestID(idNext)
  }

  /// Saves a prefix, over as many steps as its staging memory needs.
  func save(_ keys: [BlockKey]) throws {
    let id = nextID()
    engine.newRequest(id, keys: keys)
    while engine.match(id, local: 0, most: keys.count) != .none {
      engine.wait(atMost: .milliseconds(1))
    }
    let before = engine.counts.blocksCommitted
    let deadline = MonotonicClock.now() + .seconds(60)
    var isFirst = true
    while engine.counts.blocksCommitted - before < UInt64(keys.count) {
      guard MonotonicClock.now() < deadline else { throw BenchFailure("nothing is saved") }
      engine.scheduled(
        id, computed: keys.count * 16, scheduled: 0, keys: [],
        blocks: isFirst ? keys.indices.map { BlockIndex($0 % blockCount) } : [], isWhole: isFirst)
      isFirst = false
      step()
      engine.wait(atMost: .microseconds(200))
    }
    engine.finished(id)
    step()
  }

  /// Asks for a prefix, and waits until it is known how much of it can be loaded.
  func question(_ keys: [BlockKey], want: Int) throws {
    let id = nextID()
    engine.newRequest(id, keys: keys)
    while true {
      switch engine.match(id, local: 0, most: keys.count) {
      case .unknown, .pending: engine.wait(atMost: .milliseconds(5))
      case .none where want == 0, .ready(blocks: want):
        engine.finished(id)
        // A step ends here: the next question may be waited for again.
        _ = engine.plan(tokens: 0)
        return
      case .none, .ready: throw BenchFailure("another number of blocks than \(want)")
      }
    }
  }

  /// What copying a prefix in costs beside memcpy of the same bytes, and what `match` costs.
  func copyIn(_ keys: [BlockKey]) throws {
    let source = UnsafeMutableRawPointer.allocate(
      byteCount: blockBytes * blockCount, alignment: 4096)
    defer { source.deallocate() }
    memset(source, 5, blockBytes * blockCount)
    var (ratios, matches): ([Double], [Double]) = ([], [])
    for _ in 0..<21 {
      let id = nextID()
      engine.newRequest(id, keys: keys)
      while engine.match(id, local: 0, most: keys.count) != .ready(blocks: keys.count) {
        engine.wait(atMost: .milliseconds(1))
      }
      let many = 10_000
      matches.append(
        Bench.seconds {
          for _ in 0..<many { _ = engine.match(id, local: 0, most: keys.count) }
        } / Double(many) * 1e9)
      guard engine.bind(id, local: 0, targets: keys.indices.map { BlockIndex($0) }) else { return }
      rank.begin(engine.plan(tokens: 0))
      let load = Bench.seconds { _ = rank.load() }
      let plain = Bench.seconds { _ = memcpy(memory, source, blockBytes * keys.count) }
      ratios.append(plain / load)
      if let report = rank.takeReport() { engine.absorb([report]) }
      engine.finished(id)
      step()
    }
    print(
      String(
        format:
          "  match of a request that is ready: %.0f ns; copying %d MiB in, with both checks of every "
          + "block: %.2f of memcpy of as many bytes (quartiles %.2f to %.2f)",
        Bench.quantile(matches, 0.5), (blockBytes * keys.count) >> 20, Bench.quantile(ratios, 0.5),
        Bench.quantile(ratios, 0.25), Bench.quantile(ratios, 0.75)))
  }
}

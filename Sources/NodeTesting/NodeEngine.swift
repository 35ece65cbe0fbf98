internal import Glibc
internal import OSThreads
package import RemoteG2Core
package import RemoteG2Library

/// An engine with memory of its own, beside a node: what it "computes" is told by the number of a block.
package final class NodeEngine {
  package static let layers = 3
  package static let page = 4096
  package static let tokensPerBlock = 16
  package static let blockCount = 16

  package static func fingerprint(_ name: String = "m") -> Fingerprint {
    Fingerprint(modelDigest: name, layout: "l", hashScheme: "h", rankCount: 1, numerics: "n")
  }

  package static func model(_ name: String = "m") -> EngineModel {
    try! EngineModel(
      fingerprint: fingerprint(name), blockBytes: layers * page, tokensPerBlock: tokensPerBlock)
  }

  private var scheduler: StagedEngine?
  /// Until ``dropScheduler()``.
  package var engine: StagedEngine { scheduler! }
  package let rank: StagedRank
  package var isAttached: Bool { engine.isAttached }
  package let memory: UnsafeMutableRawPointer
  package private(set) var errors: [BlockIndex] = []

  package init(
    _ socket: String, model: EngineModel = NodeEngine.model(), device: PageDevice? = nil
  ) throws {
    let bytes = Self.layers * Self.blockCount * Self.page
    memory = .allocate(byteCount: bytes, alignment: 4096)
    memset(memory, 0, bytes)
    scheduler = StagedEngine(model, socket: socket)
    let layers = (0..<Self.layers).map { [memory] layer in
      EnginePages.Layer(
        base: memory + layer * Self.blockCount * Self.page, stride: Self.page, bytes: Self.page)
    }
    guard let pages = EnginePages(layers: layers, blockCount: Self.blockCount, device: device)
    else { preconditionFailure("pages of equal size") }
    rank = try StagedRank(model, rank: 0, socket: socket, pages: pages)
  }

  deinit { memory.deallocate() }

  /// The scheduler half ends, as when its process dies; the rank goes on.
  package func dropScheduler() { scheduler = nil }

  /// What this block holds, as one word of each page; nil: its pages do not agree.
  package func content(_ block: Int) -> UInt64? {
    let words = (0..<Self.layers).flatMap { layer in
      (0..<Self.page / 8).map { word in
        (memory + (layer * Self.blockCount + block) * Self.page).load(
          fromByteOffset: word * 8, as: UInt64.self) ^ UInt64(layer) << 32
      }
    }
    return words.allSatisfy { $0 == words[0] } ? words[0] : nil
  }

  /// Whether nothing was ever written there.
  package func isUntouched(_ block: Int) -> Bool {
    (0..<Self.layers).allSatisfy { layer in
      let page = memory + (layer * Self.blockCount + block) * Self.page
      return (0..<Self.page).allSatisfy { page.load(fromByteOffset: $0, as: UInt8.self) == 0 }
    }
  }

  package func compute(_ block: Int, _ content: UInt64) {
    for layer in 0..<Self.layers {
      let page = memory + (layer * Self.blockCount + block) * Self.page
      for word in 0..<Self.page / 8 {
        page.storeBytes(
          of: content ^ UInt64(layer) << 32, toByteOffset: word * 8, as: UInt64.self)
      }
    }
  }

  /// One step of the whole engine.
  package func step(tokens: Int = 0) {
    rank.begin(engine.plan(tokens: tokens))
    _ = rank.load()
    rank.stage()
    errors += rank.takeErrors()
    if let report = rank.takeReport() { engine.absorb([report]) }
  }

  /// Steps until it holds, ten seconds at most.
  package func comes(_ check: () -> Bool) -> Bool {
    let deadline = MonotonicClock.now() + .seconds(10)
    while !check() {
      guard MonotonicClock.now() < deadline else { return false }
      step()
      engine.wait(atMost: .milliseconds(2))
    }
    return true
  }

  /// Computes a prompt of whole blocks into the first blocks of its memory, and offers them.
  package func save(_ keys: [BlockKey], _ content: (Int) -> UInt64) {
    let id = RequestID(UInt64.random(in: 1...(1 << 60)))
    for place in keys.indices { compute(place, content(place)) }
    engine.newRequest(id, keys: keys)
    _ = comes { engine.match(id, local: 0, most: keys.count) == .none }
    engine.scheduled(
      id, computed: 0, scheduled: keys.count * Self.tokensPerBlock, keys: [],
      blocks: keys.indices.map { BlockIndex($0) }, isWhole: true)
    step(tokens: keys.count * Self.tokensPerBlock)
    engine.finished(id)
  }

  /// Loads a prompt into the blocks from `first` on.
  ///
  /// - Returns: How many blocks were ready.
  package func load(_ keys: [BlockKey], into first: Int) -> Int {
    let id = RequestID(UInt64.random(in: 1...(1 << 60)))
    engine.newRequest(id, keys: keys)
    var answer = StagedMatch.unknown
    _ = comes {
      answer = engine.match(id, local: 0, most: keys.count)
      return answer != .unknown && answer != .pending
    }
    guard case .ready(let count) = answer else {
      engine.finished(id)
      return 0
    }
    _ = engine.bind(id, local: 0, targets: (0..<count).map { BlockIndex(first + $0) })
    step()
    engine.finished(id)
    step()
    return count
  }
}

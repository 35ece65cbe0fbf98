import RemoteG2Core
import RemoteG2Engine
import Simulation
import Testing

@Suite struct `G1` {
  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 1) }

  /// What a pool should be: who holds what, and the cached blocks, least recently used first.
  struct Model {
    var holds: [BlockIndex: Int] = [:]
    var names: [BlockIndex: Int] = [:]
    var digests: [BlockIndex: Digest128] = [:]
    var cached: [BlockIndex] = []

    func block(of name: Int) -> BlockIndex? { names.first { $0.value == name }?.key }

    mutating func evict(_ block: BlockIndex) {
      cached.removeAll { $0 == block }
      names[block] = nil
      digests[block] = nil
    }
  }

  @Test(arguments: [1, 2, 7])
  func `holds, caches and evicts as a list of its blocks in order of use would`(count: Int) {
    var generator = Chance(seed: UInt64(count))
    var pool = PrefixPool(blockCount: count)
    var model = Model()
    for _ in 0..<3000 {
      switch Int.random(in: 0..<9, using: &generator) {
      case 0, 1:
        let free = count - model.holds.count - model.cached.count
        let block = pool.allocate()
        if free == 0, let oldest = model.cached.first {
          #expect(block == oldest)
          model.evict(oldest)
        }
        #expect((block != nil) == (model.holds.count < count))
        if let block {
          #expect(model.holds[block] == nil && model.names[block] == nil)
          model.holds[block] = 1
        }
      case 2:
        let wanted = Int.random(in: 0...3, using: &generator)
        let free = count - model.holds.count - model.cached.count
        let blocks = pool.allocate(wanted)
        #expect((blocks != nil) == (free + model.cached.count >= wanted))
        guard let blocks else { continue }
        #expect(Set(blocks).count == wanted)
        for oldest in model.cached.prefix(max(0, wanted - free)) { model.evict(oldest) }
        for block in blocks { model.holds[block] = 1 }
      case 3, 4:
        guard let block = model.holds.keys.sorted().randomElement(using: &generator) else {
          continue
        }
        pool.release(block)
        model.holds[block]? -= 1
        guard model.holds[block] == 0 else { continue }
        model.holds[block] = nil
        if model.names[block] != nil { model.cached.append(block) }
      case 5:
        let name = Int.random(in: 0..<10, using: &generator)
        let nameless = model.holds.keys.filter { model.names[$0] == nil }.sorted()
        guard let block = nameless.randomElement(using: &generator) else { continue }
        let digest = Digest128(high: UInt64(name), low: 7)
        let isFirst = pool.seal(block, as: Self.key(name), digests: [digest])
        #expect(isFirst == (model.block(of: name) == nil))
        if isFirst { (model.names[block], model.digests[block]) = (name, digest) }
      case 6, 7:
        guard let block = model.names.keys.sorted().randomElement(using: &generator) else {
          continue
        }
        pool.hold(block)
        model.cached.removeAll { $0 == block }
        model.holds[block, default: 0] += 1
      default:
        guard Int.random(in: 0..<20, using: &generator) == 0 else { continue }
        pool.dropCached()
        for block in model.cached { model.evict(block) }
      }
      let counts = [pool.heldCount, pool.cachedCount, pool.freeCount, pool.availableCount]
      let held = model.holds.count
      let areRight =
        counts == [held, model.cached.count, count - held - model.cached.count, count - held]
        && (0..<10).allSatisfy { pool.block(of: Self.key($0)) == model.block(of: $0) }
        && (0..<count).map { BlockIndex($0) }.allSatisfy {
          pool.isSealed($0) == (model.names[$0] != nil)
            && (pool.digests(of: $0)?.first ?? nil) == model.digests[$0]
            && pool.holds(of: $0) == model.holds[$0, default: 0]
        }
      guard areRight, pool.blockCount == count else {
        Issue.record("held, cached, free, available: \(counts); it should be \(model)")
        return
      }
    }
  }

  @Test func `finds the longest prefix that is here, and no more of it than is asked for`() {
    var pool = PrefixPool(blockCount: 8)
    for name in [0, 1, 2, 4] {
      guard let block = pool.allocate() else { continue }
      _ = pool.seal(block, as: Self.key(name))
    }
    let keys = (0..<5).map(Self.key)
    #expect(pool.match(keys, most: 9) == (0..<3).map { BlockIndex($0) })
    #expect(pool.match(keys, most: 2) == (0..<2).map { BlockIndex($0) })
    #expect(pool.match(Array(keys.dropFirst(3)), most: 9) == [])
  }
}

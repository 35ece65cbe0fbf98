import RemoteG2Core
import Testing

@Suite struct `Slots of a store` {
  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 1) }

  /// What a pool should hold, kept as plain lists.
  struct Model {
    struct Block {
      let slot: SlotIndex
      let generation: UInt32
      let parent: Int?
      var pins = 0
      var lastUse = 0
    }
    var sealed: [Int: Block] = [:]
    var writing: [Int: Block] = [:]
    var generations: [SlotIndex: UInt32] = [:]
    var uses = 0

    mutating func use(_ key: Int) {
      uses += 1
      sealed[key]?.lastUse = uses
    }

    /// Whom a pool without a free slot evicts: of the unpinned the one used longest ago that nothing
    /// follows, or else the one used longest ago.
    var victim: Int? {
      let parents = Set(sealed.values.compactMap(\.parent))
      let unpinned = sealed.filter { $0.value.pins == 0 }
      let leaves = unpinned.filter { !parents.contains($0.key) }
      return (leaves.isEmpty ? unpinned : leaves).min { $0.value.lastUse < $1.value.lastUse }?.key
    }
  }

  @Test(arguments: [1, 2, 5, 9])
  func `are taken, sealed, pinned and evicted as a list of blocks in order of use would be`(
    count: Int
  ) {
    var generator = TestGenerator(seed: UInt64(count))
    var pool = SlotPool(slotCount: count, rankCount: 2)
    var model = Model()
    var evicted: UInt64 = 0
    for _ in 0..<4000 {
      let key = Int.random(in: 0..<12, using: &generator)
      switch Int.random(in: 0..<10, using: &generator) {
      case 0...3:
        // Mostly chains, now and then a block that follows nothing or what is not here.
        let parent = Int.random(in: 0..<5, using: &generator) == 0 ? nil : (key + 11) % 12
        let answer = pool.begin(Self.key(key), after: parent.map(Self.key))
        if model.sealed[key] != nil || model.writing[key] != nil {
          #expect(answer == .present)
          continue
        }
        if model.sealed.count + model.writing.count == count {
          guard let victim = model.victim else {
            #expect(answer == .full)
            continue
          }
          model.sealed[victim] = nil
          evicted += 1
        }
        guard case .reserved(let slot, let generation) = answer else {
          Issue.record("\(answer) with room in the pool")
          return
        }
        #expect(generation == (model.generations[slot] ?? 0) + 1)
        model.generations[slot] = generation
        model.writing[key] = Model.Block(slot: slot, generation: generation, parent: parent)
        #expect(pool.phase(of: slot) == .writing && pool.digests(of: slot).isEmpty)
      case 4, 5:
        guard let block = model.writing.removeValue(forKey: key) else { continue }
        let digest = Digest128(high: UInt64(key), low: 3)
        pool.seal(block.slot, generation: block.generation, digests: [digest, nil])
        model.sealed[key] = block
        model.use(key)
        #expect(pool.digests(of: block.slot) == [digest, nil])
      case 6:
        guard let block = model.writing.removeValue(forKey: key) else { continue }
        pool.abandon(block.slot, generation: block.generation)
      case 7:
        guard let block = model.sealed[key] else { continue }
        pool.pin(block.slot)
        model.sealed[key]?.pins += 1
      case 8:
        guard let block = model.sealed[key], block.pins > 0 else { continue }
        pool.unpin(block.slot)
        model.sealed[key]?.pins -= 1
        if block.pins == 1 { model.use(key) }
      default:
        guard Int.random(in: 0..<30, using: &generator) == 0 else { continue }
        var gone = 0
        while let victim = model.victim,
          !model.sealed.values.contains(where: { $0.parent == victim })
        {
          model.sealed[victim] = nil
          gone += 1
        }
        let count = pool.evictUnpinned()
        #expect(count == gone)
        evicted += UInt64(gone)
      }
      let isRight =
        pool.sealedCount == model.sealed.count && pool.writingCount == model.writing.count
        && pool.freeCount == count - model.sealed.count - model.writing.count
        && pool.pinnedCount == model.sealed.values.count { $0.pins > 0 }
        && pool.evictedCount == evicted && pool.slotCount == count
      let areHere = (0..<12).allSatisfy { other in
        let block = model.sealed[other]
        guard pool.slot(holding: Self.key(other)) == block?.slot,
          pool.has(Self.key(other)) == (block != nil || model.writing[other] != nil)
        else { return false }
        guard let block else { return true }
        return pool.pins(of: block.slot) == block.pins && pool.phase(of: block.slot) == .sealed
          && pool.generation(of: block.slot) == block.generation
          && pool.key(of: block.slot) == Self.key(other)
      }
      guard isRight, areHere else {
        Issue.record("\(pool) should be \(model)")
        return
      }
    }
    #expect(evicted > 50, "too little was evicted to show anything")
  }
}

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
      var standing = Retention.Standing.probation
      /// Since it was sealed.
      var reads = 0
    }
    var sealed: [Int: Block] = [:]
    var writing: [Int: Block] = [:]
    var generations: [SlotIndex: UInt32] = [:]
    var uses = 0
    /// What was evicted and nobody has.
    var remembered: Set<Int> = []

    mutating func use(_ key: Int) {
      uses += 1
      sealed[key]?.lastUse = uses
    }

    mutating func read(_ key: Int) {
      sealed[key]?.reads += 1
      switch sealed[key]?.standing {
      case .copy? where sealed[key]?.reads ?? 0 > 2: sealed[key]?.standing = .probation
      case .probation?: sealed[key]?.standing = .protected
      default: break
      }
      use(key)
    }

    /// Unpinned ones that nothing follows, and copies.
    var evictable: [Int: Block] {
      let parents = Set(sealed.values.compactMap(\.parent))
      return sealed.filter {
        $0.value.pins == 0 && ($0.value.standing == .copy || !parents.contains($0.key))
      }
    }

    /// Whom a pool without a free slot evicts, used longest ago: a copy; one on probation, if more than `spared`
    /// are, or for a copy; one that is protected; one on probation; any that is not pinned. But never the block that
    /// the new one follows: what is worth as much as that makes no room.
    func victim(sparing spared: Int, after parent: Int? = nil, isCopy: Bool = false) -> Int? {
      // Nobody could find what follows nothing.
      if let parent, sealed[parent] == nil, writing[parent] == nil { return nil }
      let isOver = isCopy || sealed.values.count { $0.standing == .probation } > spared
      let order: [Retention.Standing] =
        isOver ? [.copy, .probation, .protected] : [.copy, .protected, .probation]
      let (evictable, unpinned) = (evictable, sealed.filter { $0.value.pins == 0 })
      for kind in order {
        let these = evictable.filter { $0.value.standing == kind }
        let others = these.filter { $0.key != parent }
        if let oldest = others.min(by: { $0.value.lastUse < $1.value.lastUse }) {
          return oldest.key
        }
        if kind == .probation, !isCopy, !these.isEmpty { return nil }
      }
      // Where only the parent could go, nothing does.
      if let parent, evictable[parent] != nil { return nil }
      return unpinned.filter { $0.key != parent }.min { $0.value.lastUse < $1.value.lastUse }?.key
    }
  }

  @Test(arguments: [1, 2, 5, 9])
  func `are taken, sealed, pinned and evicted as a list of blocks in order of use would be`(
    count: Int
  ) {
    var generator = TestGenerator(seed: UInt64(count))
    var pool = SlotPool(
      slotCount: count, rankCount: 2, limits: Limits { $0.evictionsRememberedPerBlock = 100 })
    var model = Model()
    var evicted: UInt64 = 0
    for _ in 0..<10_000 {
      let key = Int.random(in: 0..<12, using: &generator)
      switch Int.random(in: 0..<14, using: &generator) {
      case 0...3:
        // Mostly chains, now and then a block that follows nothing or what is not here.
        let parent = Int.random(in: 0..<5, using: &generator) == 0 ? nil : (key + 11) % 12
        let isCopy = Bool.random(using: &generator)
        let answer = pool.begin(Self.key(key), after: parent.map(Self.key), isCopy: isCopy)
        if model.sealed[key] != nil || model.writing[key] != nil {
          #expect(answer == .present)
          continue
        }
        if model.sealed.count + model.writing.count == count {
          guard
            let victim = model.victim(
              sparing: pool.retention.probationSlots, after: parent,
              isCopy: isCopy)
          else {
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
        model.writing[key] = Model.Block(
          slot: slot, generation: generation, parent: parent,
          standing: isCopy ? .copy : .probation)
        #expect(pool.phase(of: slot) == .writing && pool.digests(of: slot).isEmpty)
      case 4, 5:
        guard let block = model.writing.removeValue(forKey: key) else { continue }
        let digest = Digest128(high: UInt64(key), low: 3)
        pool.seal(block.slot, generation: block.generation, digests: [digest, nil])
        model.sealed[key] = block
        if block.standing != .copy, model.remembered.remove(key) != nil {
          model.sealed[key]?.standing = .protected
        }
        model.use(key)
        #expect(pool.digests(of: block.slot) == [digest, nil])
      case 6:
        guard let block = model.writing.removeValue(forKey: key) else { continue }
        pool.abandon(block.slot, generation: block.generation)
      case 7:
        guard let block = model.sealed[key] else { continue }
        pool.pin(block.slot)
        model.sealed[key]?.pins += 1
      // Oftener than it is pinned, or it is pinned for ever.
      case 8, 11:
        guard let block = model.sealed[key], block.pins > 0 else { continue }
        pool.unpin(block.slot)
        model.sealed[key]?.pins -= 1
        if block.pins == 1 { model.read(key) }
      case 9:
        guard !pool.has(Self.key(key)) else { continue }
        pool.retention.noteEvicted(
          Self.key(key), wasProtected: Bool.random(using: &generator))
        model.remembered.insert(key)
      case 10:
        pool.keepLast(Self.key(key))
        guard let block = model.sealed[key], block.standing == .copy else { continue }
        model.sealed[key]?.standing = block.reads > 0 ? .protected : .probation
      case 12:
        pool.noteElsewhere(Self.key(key))
        guard let block = model.sealed[key], block.reads == 0, block.pins == 0 else { continue }
        model.sealed[key]?.standing = .copy
      default:
        guard Int.random(in: 0..<30, using: &generator) == 0 else { continue }
        var gone = 0
        while !model.evictable.isEmpty,
          let victim = model.victim(sparing: pool.retention.probationSlots)
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
          && pool.standing(of: block.slot) == block.standing
      }
      guard isRight, areHere else {
        Issue.record("\(pool) should be \(model)")
        return
      }
    }
    #expect(evicted > 50, "too little was evicted to show anything")
  }

  @Test func `lets go first what another member has computed, too, unless it is read here`() {
    var pool = SlotPool(slotCount: 4, rankCount: 1)
    var places: [SlotIndex] = []
    for key in 0..<4 {
      guard
        case .reserved(let slot, let generation) = pool.begin(
          Self.key(key), after: nil, isCopy: key == 3)
      else {
        Issue.record("there is no room for \(key)")
        return
      }
      pool.seal(slot, generation: generation, digests: [nil])
      places.append(slot)
    }
    // 1 has been read, and 2 is being read.
    pool.pin(places[1])
    pool.unpin(places[1])
    pool.pin(places[2])
    for key in 0..<3 { pool.noteElsewhere(Self.key(key)) }
    #expect(places.map { pool.standing(of: $0) } == [.copy, .protected, .probation, .copy])
    // The last copy of what was read is worth as much as what was used twice; of what was not, it is new.
    pool.pin(places[3])
    pool.unpin(places[3])
    for key in [0, 3] { pool.keepLast(Self.key(key)) }
    #expect(
      places.map { pool.standing(of: $0) } == [.probation, .protected, .probation, .protected])
  }
}

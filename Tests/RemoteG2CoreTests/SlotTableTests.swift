import RemoteG2Core
import Testing

/// Words that tell of every store, as whoever comes after a process that ended there would find them.
private final class SteppedWords: TableWords, @unchecked Sendable {
  // @unchecked: one test uses it.
  private(set) var words: [UInt64]
  /// Called after every store.
  var stored: () -> Void = {}

  init(_ count: Int) { words = Array(repeating: 0, count: count) }

  func load(_ index: Int) -> UInt64 { words[index] }
  func store(_ index: Int, _ value: UInt64) {
    words[index] = value
    stored()
  }
  func publish(_ index: Int, _ value: UInt64) { store(index, value) }
  func fence() {}
  func damage(_ index: Int, _ change: UInt64) { words[index] ^= change }
}

@Suite struct `A table of slots` {
  private static let slotCount = 6
  private static let rankCount = 2

  fileprivate static func makeTable() -> SlotTable<SteppedWords> {
    SlotTable(
      SteppedWords(
        SlotTable<SteppedWords>.wordCount(slotCount: slotCount, rankCount: rankCount)),
      slotCount: slotCount, rankCount: rankCount)
  }

  private static func digests(_ number: UInt64) -> [Digest128] {
    [Digest128(high: number, low: 1), Digest128(high: number, low: 2)]
  }

  /// A pool with its table and its ranks' words, as a node has them.
  private final class Shop {
    var pool = SlotPool(
      slotCount: slotCount, rankCount: rankCount, tellsChanges: false, hasTable: true)
    let table = makeTable()
    var words = Array(repeating: Array(repeating: UInt64(0), count: slotCount), count: rankCount)
    /// What whoever comes now has to find, and nothing else.
    var model: [SlotIndex: KeptSlot] = [:]
    /// The last generation that some byte may have been written under.
    var written = Array(repeating: UInt32(0), count: slotCount)
    private(set) var looks = 0

    init() { table.words.stored = { [unowned self] in look() } }

    var adoption: Adoption { Adoption(table) { self.words[$0][$1.index] } }

    /// A process ends here.
    func look() {
      looks += 1
      let adoption = adoption
      let expected = pending ?? model
      let found = Dictionary(uniqueKeysWithValues: adoption.kept.map { ($0.slot, $0) })
      // While one store is being made, what was true before it may still be.
      #expect(found == model || found == expected)
      for slot in 0..<slotCount where found[SlotIndex(slot)] == nil {
        #expect(adoption.generations[slot] > written[slot], "a reader could take it for what was")
      }
      for kept in adoption.kept {
        #expect(adoption.generations[kept.slot.index] == kept.generation)
      }
      #expect(adoption.refused == 0)
    }

    /// After the store that is being made.
    private var pending: [SlotIndex: KeptSlot]?

    /// Tells the table what the pool has told.
    func drain() {
      for change in pool.takeSlotChanges() {
        var after = model
        switch change {
        case .begun(let slot, _), .freed(let slot, _): after[slot] = nil
        case .sealed(let kept): after[kept.slot] = kept
        case .used(let slot, let use):
          if let old = model[slot] {
            after[slot] = KeptSlot(
              slot: slot, generation: old.generation, key: old.key, parent: old.parent,
              digests: old.digests, use: use)
          }
        }
        pending = after
        table.apply(change)
        pending = nil
        model = after
        look()
      }
    }

    /// Before any byte changes, and between the ranks.
    func write(_ slot: SlotIndex, _ generation: UInt32) {
      for rank in 0..<rankCount {
        words[rank][slot.index] = SlotWord.writing(generation)
        written[slot.index] = generation
        look()
      }
    }

    func makeReadable(_ slot: SlotIndex, _ generation: UInt32) {
      for rank in 0..<rankCount {
        words[rank][slot.index] = SlotWord.readable(generation)
        look()
      }
    }
  }

  private static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 9) }

  @Test(arguments: 0..<20)
  func `whoever comes after any store finds what was sealed and nothing else`(seed: Int) {
    var chance = TestGenerator(seed: UInt64(seed))
    func below(_ count: Int) -> Int { Int.random(in: 0..<count, using: &chance) }
    let shop = Shop()
    var writing: [(SlotIndex, UInt32, Int)] = []
    var pinned: [SlotIndex] = []
    var sealed = 0
    for _ in 0..<240 {
      switch below(8) {
      case 0...2:
        let number = below(12)
        let parent = below(3) == 0 ? nil : Self.key(below(12))
        let result = shop.pool.begin(
          Self.key(number), after: parent, isCopy: below(3) == 0)
        shop.drain()
        if case .reserved(let slot, let generation) = result {
          shop.write(slot, generation)
          writing.append((slot, generation, number))
        }
      case 3, 4:
        guard !writing.isEmpty else { continue }
        let (slot, generation, number) = writing.remove(at: below(writing.count))
        shop.makeReadable(slot, generation)
        shop.pool.seal(slot, generation: generation, digests: Self.digests(UInt64(number)))
        sealed += 1
        shop.drain()
      case 5:
        guard !writing.isEmpty else { continue }
        let (slot, generation, _) = writing.remove(at: below(writing.count))
        shop.pool.abandon(slot, generation: generation)
        shop.drain()
      case 6:
        guard let slot = shop.pool.slot(holding: Self.key(below(12))) else { continue }
        shop.pool.pin(slot)
        pinned.append(slot)
      default:
        guard !pinned.isEmpty else { continue }
        shop.pool.unpin(pinned.remove(at: below(pinned.count)))
        shop.drain()
      }
      let held = (0..<12).compactMap { shop.pool.slot(holding: Self.key($0)) }
      #expect(Set(shop.model.keys) == Set(held), "the table does not say what the pool holds")
    }
    #expect(sealed > 10 && shop.looks > 300)
  }

  /// Three sealed blocks, one after another, and one that is being written.
  private static func filled() -> Shop {
    let shop = Shop()
    for number in 0..<4 {
      let parent = number == 0 ? nil : key(number - 1)
      guard case .reserved(let slot, let generation) = shop.pool.begin(key(number), after: parent)
      else { preconditionFailure("there is room") }
      shop.drain()
      shop.write(slot, generation)
      guard number < 3 else { continue }
      shop.makeReadable(slot, generation)
      shop.pool.seal(slot, generation: generation, digests: digests(UInt64(number)))
      shop.drain()
    }
    return shop
  }

  @Test func `a pool that is taken over shows a block once its bytes are verified`() throws {
    let shop = Self.filled()
    // Used last, so the last to go.
    let first = try #require(shop.pool.slot(holding: Self.key(0)))
    shop.pool.pin(first)
    shop.pool.unpin(first)
    shop.drain()
    let adoption = shop.adoption
    var pool = SlotPool(
      slotCount: Self.slotCount, rankCount: Self.rankCount, tellsChanges: true, hasTable: true)
    pool.adopt(adoption)
    #expect(adoption.kept.count == 3 && pool.freeCount == 3 && pool.sealedCount == 0)
    #expect(pool.has(Self.key(1)) && !pool.has(Self.key(3)))
    for kept in adoption.kept.reversed() { pool.verified(kept, isRight: kept.key != Self.key(2)) }
    #expect(pool.slot(holding: Self.key(0)) == first)
    #expect(pool.standing(of: first) == .protected)
    pool.noteElsewhere(Self.key(0))
    #expect(pool.standing(of: first) == .protected, "it was read before it was taken over")
    #expect(pool.sealedCount == 2 && !pool.has(Self.key(2)) && pool.freeCount == 4)
    let told = pool.takeChanges()
    #expect(told.map(\.key) == [Self.key(1), Self.key(0)] && told.allSatisfy(\.isSealed))
    let slot = try #require(pool.slot(holding: Self.key(1)))
    #expect(pool.digests(of: slot).compactMap { $0 } == Self.digests(1))
    // What it says of itself from now on goes on from there.
    guard case .reserved(let next, let generation) = pool.begin(Self.key(3), after: Self.key(1))
    else {
      Issue.record("there is room")
      return
    }
    #expect(generation > adoption.generations[next.index])
    #expect(pool.evictUnpinned() == 2)
    #expect(pool.takeChanges().map(\.key) == [Self.key(1), Self.key(0)], "a tail before its head")
  }

  @Test func `an entry that is not whole is not believed`() {
    let words = SlotTable<SteppedWords>.wordsPerSlot(Self.rankCount)
    var refused = 0
    for word in 0..<words {
      for bit in [0, 1, 2, 33, 63] {
        let shop = Self.filled()
        let slot = shop.adoption.kept[1].slot
        let place = TableHeader.wordCount + slot.index * words + word
        shop.table.words.damage(place, 1 << UInt64(bit))
        let kept = shop.adoption.kept
        // When it was used last is a hint.
        if word == 6 {
          #expect(kept.count == 3)
          continue
        }
        refused += 1
        #expect(!kept.contains { $0.slot == slot }, "word \(word), bit \(bit)")
        #expect(kept.count == 2 && shop.adoption.generations[slot.index] > 1)
      }
    }
    #expect(refused == (words - 1) * 5)
  }

  @Test func `a word that says something else refuses its block, on any rank`() {
    for rank in 0..<Self.rankCount {
      for word in [SlotWord.writing(1), SlotWord.readable(2), SlotWord.writing(7), 0] {
        let shop = Self.filled()
        let slot = shop.adoption.kept[0].slot
        shop.words[rank][slot.index] = word
        #expect(shop.adoption.kept.count == 2 && shop.adoption.refused == 1)
        #expect(shop.adoption.generations[slot.index] > UInt32(max(1, word >> 1)))
      }
    }
  }

  @Test func `a slot that has had every generation makes all of it worthless`() {
    for word in [SlotWord.writing(.max), SlotWord.readable(.max - 1), SlotWord.writing(.max - 2)] {
      let shop = Self.filled()
      #expect(!shop.adoption.isTorn)
      shop.words[1][5] = word
      #expect(shop.adoption.isTorn)
    }
  }

  @Test func `of two blocks of one key neither is taken`() {
    let shop = Self.filled()
    let one = shop.adoption.kept[0]
    let free = SlotIndex(5)
    shop.table.words.stored = {}
    shop.table.apply(
      .sealed(
        KeptSlot(
          slot: free, generation: 3, key: one.key, parent: one.parent, digests: one.digests,
          use: one.use)))
    for rank in 0..<Self.rankCount { shop.words[rank][free.index] = SlotWord.readable(3) }
    let adoption = Adoption(shop.table) { shop.words[$0][$1.index] }
    #expect(adoption.kept.count == 2 && adoption.refused == 2)
    #expect(!adoption.kept.contains { $0.key == one.key })
    #expect(adoption.emptied.count == 4)
  }
}

@Suite struct `A table's header` {
  private static let terms = PoolTerms(
    fingerprint: Fingerprint(
      modelDigest: "m/ü", weightEpoch: 7, layout: "l", hashScheme: "h", rankCount: 3, numerics: ""),
    blockBytes: 4096)
  private static let header = TableHeader(
    files: Incarnation(high: 5, low: 6), terms: terms, slotCount: 9)
  private static let wordCount = SlotTable<SteppedWords>.wordCount(slotCount: 9, rankCount: 3)

  private static func written() -> SteppedWords {
    let words = SteppedWords(wordCount)
    #expect(header.write(into: words))
    return words
  }

  @Test func `comes back as it was written`() {
    #expect(TableHeader.read(Self.written(), wordCount: Self.wordCount) == .success(Self.header))
  }

  @Test func `is refused where any bit of it is another, or the table is of another size`() {
    for word in 0..<16 {
      for bit in [0, 7, 31, 63] {
        let words = Self.written()
        words.damage(word, 1 << UInt64(bit))
        let result = TableHeader.read(words, wordCount: Self.wordCount)
        switch word {
        case 0: #expect(result == .failure(.notATable))
        case 1:
          #expect(
            result == .failure(.version(TableHeader.layoutVersion ^ 1 << UInt64(bit))))
        // The text ends before the last of these.
        default:
          if words.words[word] != 1 << UInt64(bit) || word < 10 {
            #expect(result == .failure(.torn), "word \(word), bit \(bit)")
          }
        }
      }
    }
    #expect(
      TableHeader.read(Self.written(), wordCount: Self.wordCount + 1) == .failure(.torn))
    #expect(TableHeader.read(SteppedWords(8), wordCount: 8) == .failure(.notATable))
  }

  @Test func `has no room for a fingerprint without end`() {
    let terms = PoolTerms(
      fingerprint: Fingerprint(
        modelDigest: String(repeating: "m", count: 30_000), layout: "l", hashScheme: "h",
        rankCount: 1, numerics: ""), blockBytes: 1)
    let header = TableHeader(files: Incarnation(high: 1, low: 1), terms: terms, slotCount: 1)
    #expect(!header.write(into: SteppedWords(TableHeader.wordCount)))
  }
}

/// Memory of whole words, in which a ``SlotTable`` is written.
package protocol TableWords: Sendable {
  func load(_ index: Int) -> UInt64
  func store(_ index: Int, _ value: UInt64)
  /// Nothing that was stored before can be seen after it.
  func publish(_ index: Int, _ value: UInt64)
  /// Nothing that is written later can be seen before what was stored.
  func fence()
}

/// What outlives the process that serves a pool: beside the pool's bytes, which of its slots hold which block.
///
/// One process writes it, and whoever comes after it reads it, which is never sooner than the writer has ended. A
/// slot's state is the last word that is written when it is sealed, and the first when its bytes may change, so that
/// an entry that says *sealed* is whole whenever the writer ended. Its checksum is for the case that it was not
/// written by this code.
package struct SlotTable<Words: TableWords>: Sendable {
  package let words: Words
  package let slotCount: Int
  package let rankCount: Int

  package init(_ words: Words, slotCount: Int, rankCount: Int) {
    self.words = words
    self.slotCount = slotCount
    self.rankCount = rankCount
  }

  package static func wordsPerSlot(_ rankCount: Int) -> Int { Field.digests + 2 * rankCount }

  package static func wordCount(slotCount: Int, rankCount: Int) -> Int {
    TableHeader.wordCount + slotCount * wordsPerSlot(rankCount)
  }

  private func first(of slot: SlotIndex) -> Int {
    precondition(slot.index >= 0 && slot.index < slotCount, "\(slot) of \(slotCount)")
    return TableHeader.wordCount + slot.index * Self.wordsPerSlot(rankCount)
  }

  // MARK: Writing

  package func apply(_ change: SlotChange) {
    switch change {
    case .begun(let slot, let generation):
      words.publish(first(of: slot) + Field.state, Self.state(generation, Phase.writing))
      words.fence()
    case .sealed(let kept): seal(kept)
    case .used(let slot, let use): words.store(first(of: slot) + Field.use, Self.word(of: use))
    case .freed(let slot, let generation):
      words.publish(first(of: slot) + Field.state, Self.state(generation, Phase.free))
      words.fence()
    }
  }

  private func seal(_ kept: KeptSlot) {
    precondition(kept.digests.count == rankCount, "one digest a rank")
    let first = first(of: kept.slot)
    words.store(first + Field.key, kept.key.high)
    words.store(first + Field.key + 1, kept.key.low)
    words.store(first + Field.parent, kept.parent?.high ?? 0)
    words.store(first + Field.parent + 1, kept.parent?.low ?? 0)
    words.store(first + Field.hasParent, kept.parent == nil ? 0 : 1)
    words.store(first + Field.use, Self.word(of: kept.use))
    for (rank, digest) in kept.digests.enumerated() {
      words.store(first + Field.digests + 2 * rank, digest.high)
      words.store(first + Field.digests + 2 * rank + 1, digest.low)
    }
    let state = Self.state(kept.generation, Phase.sealed)
    words.store(first + Field.checksum, checksum(first, state))
    words.publish(first + Field.state, state)
  }

  private static func state(_ generation: UInt32, _ phase: UInt64) -> UInt64 {
    UInt64(generation) << 2 | phase
  }

  private static func word(of use: SlotUse) -> UInt64 {
    let standing: UInt64 =
      switch use.standing {
      case .copy: 0
      case .probation: 1
      case .protected: 2
      }
    return use.lastUse << 2 | standing
  }

  /// Of all that does not change while the block is sealed.
  private func checksum(_ first: Int, _ state: UInt64) -> UInt64 {
    var sum = WordChecksum()
    sum.add(state)
    for field in Field.key...Field.hasParent { sum.add(words.load(first + field)) }
    for field in 0..<2 * rankCount { sum.add(words.load(first + Field.digests + field)) }
    return sum.value
  }

  // MARK: Reading

  /// The generation that a slot had last, whatever it held.
  package func generation(of slot: SlotIndex) -> UInt32 {
    UInt32(truncatingIfNeeded: words.load(first(of: slot) + Field.state) >> 2)
  }

  /// What a slot holds, if its entry says that it holds something, and is whole.
  package func kept(_ slot: SlotIndex) -> KeptSlot? {
    let first = first(of: slot)
    let state = words.load(first + Field.state)
    guard state == Self.state(generation(of: slot), Phase.sealed),
      words.load(first + Field.checksum) == checksum(first, state)
    else { return nil }
    func pair(_ place: Int) -> (UInt64, UInt64) { (words.load(place), words.load(place + 1)) }
    let (key, parent) = (pair(first + Field.key), pair(first + Field.parent))
    let use = words.load(first + Field.use)
    let standings: [Retention.Standing] = [.copy, .probation, .protected]
    return KeptSlot(
      slot: slot, generation: generation(of: slot), key: BlockKey(high: key.0, low: key.1),
      parent: words.load(first + Field.hasParent) == 1
        ? BlockKey(high: parent.0, low: parent.1) : nil,
      digests: (0..<rankCount).map {
        let digest = pair(first + Field.digests + 2 * $0)
        return Digest128(high: digest.0, low: digest.1)
      },
      use: SlotUse(lastUse: use >> 2, standing: standings[min(Int(use & 3), 2)]))
  }
}

/// Of an entry.
private enum Field {
  static let state = 0
  static let key = 1
  static let parent = 3
  static let hasParent = 5
  static let use = 6
  static let checksum = 7
  static let digests = 8
}

private enum Phase {
  static let free: UInt64 = 0
  static let writing: UInt64 = 1
  static let sealed: UInt64 = 2
}

/// Tells words that were written together from others. Not meant against anybody.
struct WordChecksum {
  private(set) var value: UInt64 = 0x9E37_79B9_7F4A_7C15

  mutating func add(_ word: UInt64) {
    value = (value ^ word) &* 0xBF58_476D_1CE4_E5B9
    value ^= value >> 29
  }
}

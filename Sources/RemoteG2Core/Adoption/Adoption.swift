/// What a process that begins to serve a pool takes over from the one before, which has ended.
///
/// Taken over is what the table says is sealed, whole and the only one of its key, if every rank's word says the same.
/// Every other slot gets a generation that it never had, so that whoever still has the pool mapped cannot take what
/// comes for what was. Nothing that is taken over is found before its bytes have been compared with their digests.
package struct Adoption: Equatable, Sendable {
  /// In the order of their slots.
  package let kept: [KeptSlot]
  /// Of every slot, from now on.
  package let generations: [UInt32]
  /// Slots whose entries said that they hold a block, and that were not believed.
  package let refused: Int

  /// - Parameter word: A slot's generation word, of one rank.
  package init<Words>(
    _ table: SlotTable<Words>, word: (_ rank: Int, _ slot: SlotIndex) -> UInt64
  ) {
    var kept: [KeptSlot] = []
    var generations: [UInt32] = []
    var refused = 0
    var seen: [BlockKey: Int] = [:]
    for place in 0..<table.slotCount {
      let slot = SlotIndex(place)
      let words = (0..<table.rankCount).map { word($0, slot) }
      let found = table.kept(slot)
      if let found {
        seen[found.key, default: 0] += 1
        if words.allSatisfy({ $0 == SlotWord.readable(found.generation) }) {
          kept.append(found)
        } else {
          refused += 1
        }
      }
      let newest = words.reduce(table.generation(of: slot)) {
        max($0, UInt32(truncatingIfNeeded: $1 >> 1))
      }
      generations.append(newest)
    }
    let unique = kept.filter { seen[$0.key] == 1 }
    refused += kept.count - unique.count
    let taken = Set(unique.map(\.slot))
    for place in generations.indices where !taken.contains(SlotIndex(place)) {
      generations[place] &+= 1
    }
    self.kept = unique
    self.generations = generations
    self.refused = refused
  }

  /// Some slot has had every generation there is, or whoever wrote that was not this code.
  package var isTorn: Bool {
    generations.contains { $0 == 0 || $0 >= .max - 1 } && !generations.isEmpty
  }

  /// Slots that hold nothing, with what they are to be called before anybody may write to them.
  package var emptied: [SlotChange] {
    let taken = Set(kept.map(\.slot))
    return generations.indices.lazy.map { SlotIndex($0) }.filter { !taken.contains($0) }.map {
      .freed($0, generation: generations[$0.index])
    }
  }
}

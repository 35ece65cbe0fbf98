internal import Glibc
package import RemoteG2Core

/// All that a pool consists of: each rank's memory and, where a keeper has them too, the table of what is in them.
package struct KeptPool: Sendable {
  package let ranks: [PoolMemory]
  package let table: SlotTable<TableMemory>?

  /// Makes a pool.
  ///
  /// - Parameters:
  ///   - id: Drawn for it.
  ///   - hasTable: Somebody keeps it beyond this process.
  package init(
    _ terms: PoolTerms, slotCount: Int, id: Incarnation, hasTable: Bool
  ) throws(PoolError) {
    var ranks: [PoolMemory] = []
    for _ in 0..<terms.rankCount {
      ranks.append(try PoolMemory(slotCount: slotCount, blockBytes: terms.blockBytes, owner: id))
    }
    self.ranks = ranks
    guard hasTable else {
      table = nil
      return
    }
    let count = SlotTable<TableMemory>.wordCount(slotCount: slotCount, rankCount: terms.rankCount)
    let words = try TableMemory(wordCount: count)
    let header = TableHeader(files: id, terms: terms, slotCount: slotCount)
    table =
      header.write(into: words)
      ? SlotTable(words, slotCount: slotCount, rankCount: terms.rankCount) : nil
  }

  /// What it was called when it was made.
  package var files: Incarnation { ranks[0].files }

  /// Takes a pool over, from a process that has ended.
  ///
  /// - Parameters:
  ///   - files: Its files, by the part that they are. They are taken, or closed.
  ///   - id: Drawn for it.
  /// - Returns: What it says of itself, and what of it counts. Every other slot has been emptied.
  package static func adopt(
    _ kept: KeptFiles, as id: Incarnation
  ) -> Result<(KeptPool, TableHeader, Adoption), TableHeader.Unusable> {
    guard let descriptor = kept.take(part: 0).first,
      let words = try? TableMemory(adopting: descriptor)
    else { return .failure(.missingFiles) }
    let header: TableHeader
    switch TableHeader.read(words, wordCount: words.wordCount) {
    case .failure(let unusable): return .failure(unusable)
    case .success(let found): header = found
    }
    guard header.files == kept.files else { return .failure(.otherFiles) }
    var ranks: [PoolMemory] = []
    for rank in 0..<header.terms.rankCount {
      let files = kept.take(part: UInt16(rank + 1))
      guard files.count == 2 else {
        for descriptor in files { close(descriptor) }
        return .failure(.missingFiles)
      }
      do throws(PoolError) {
        ranks.append(
          try PoolMemory(
            adopting: files[0], readOnlyDescriptor: files[1], slotCount: header.slotCount,
            blockBytes: header.terms.blockBytes, files: header.files, owner: id))
      } catch { return .failure(.otherFiles) }
    }
    let table = SlotTable(words, slotCount: header.slotCount, rankCount: ranks.count)
    let adoption = Adoption(table) { rank, slot in ranks[rank].words.word(of: slot) }
    guard !adoption.isTorn else { return .failure(.torn) }
    for change in adoption.emptied {
      guard case .freed(let slot, let generation) = change else { continue }
      table.apply(change)
      for rank in ranks { rank.words.beginWriting(slot, generation) }
    }
    return .success((KeptPool(ranks: ranks, table: table), header, adoption))
  }

  private init(ranks: [PoolMemory], table: SlotTable<TableMemory>) {
    self.ranks = ranks
    self.table = table
  }
}

/// The files of one pool as they are handed from one process to another.
package final class KeptFiles {
  package let files: Incarnation
  private var parts: [UInt16: [Int32]] = [:]

  package init(_ files: Incarnation) { self.files = files }

  deinit { for descriptor in parts.values.joined() { close(descriptor) } }

  /// - Returns: False where it is known already, or no part of a pool.
  package func add(part: UInt16, _ received: ReceivedDescriptors) -> Bool {
    let expected = part == 0 ? 1 : 2
    guard parts[part] == nil, part <= 64, received.count == expected else { return false }
    parts[part] = (0..<expected).compactMap { _ in received.take() }
    return true
  }

  /// From now on they are the caller's to close.
  package func take(part: UInt16) -> [Int32] { parts.removeValue(forKey: part) ?? [] }

  package var inOrder: [(part: UInt16, descriptors: [Int32])] {
    parts.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }
}

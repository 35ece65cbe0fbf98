/// The blocks that are on their way into the own store, and those that still should be.
///
///     offered ─wanted─▶ staging ─every rank has staged it─▶ committed ─the store says what became of it─▶
///        └─not wanted, store away─▶ ·  └─some rank could not─▶ withdrawn
///
/// Everything belongs to the store it was begun with: what another says of it is nobody's, and what its
/// death interrupts is begun anew with its successor.
package struct SaveTable {
  private enum Phase {
    case offered
    /// Ranks that have still to say, and whether any could not.
    case staging(left: Int, isLost: Bool)
    /// Its G1 block has been given back.
    case committed
  }

  private struct Entry {
    let block: SealedBlock
    let source: SourceID
    var phase: Phase
  }

  private let rankCount: Int
  private let inFlightMax: Int
  private let unsavedMax: Int
  private var entries: [BlockKey: Entry] = [:]
  private var batches: [UInt64: (source: SourceID, keys: [BlockKey])] = [:]
  private var batchNext: UInt64 = 1
  /// Keys that a store lacked when they were used, oldest first, with the keys they follow.
  private var unsaved: [BlockKey: BlockKey?] = [:]
  private var unsavedOrder: [BlockKey] = []
  /// What became of blocks that were committed.
  package private(set) var outcomes: [SaveOutcome.Kind: Int] = [:]

  package init(rankCount: Int, inFlightMax: Int, unsavedMax: Int) {
    self.rankCount = rankCount
    self.inFlightMax = inFlightMax
    self.unsavedMax = unsavedMax
  }

  package var inFlightCount: Int { entries.count }
  /// What is on its way, in words.
  package var description: String {
    entries.values.map { "\($0.block.block) for \($0.source.incarnation): \($0.phase)" }.sorted()
      .joined(separator: ", ")
  }
  package var unsavedCount: Int { unsaved.count }

  // MARK: Offering

  /// Takes what there is room for; the rest is remembered.
  ///
  /// - Parameter source: Nil: the store is away.
  /// - Returns: The blocks that are held from now on, and the offer to make.
  package mutating func offer(
    _ blocks: [SealedBlock], to source: SourceID?
  ) -> (held: [BlockIndex], batch: UInt64, keys: [BlockKey]) {
    var taken: [SealedBlock] = []
    for block in blocks where entries[block.key] == nil {
      guard let source, entries.count < inFlightMax else {
        remember(block.key, after: block.parent)
        continue
      }
      forget(block.key)
      entries[block.key] = Entry(block: block, source: source, phase: .offered)
      taken.append(block)
    }
    let batch = batchNext
    guard let source, !taken.isEmpty else { return ([], batch, []) }
    batchNext += 1
    let keys = taken.map(\.key)
    batches[batch] = (source, keys)
    return (taken.map(\.block), batch, keys)
  }

  /// Keys to be offered again, if the engine still has them.
  ///
  /// - Parameter most: Blocks that the engine can do without until they are staged.
  package mutating func takeUnsaved(atMost most: Int) -> [(key: BlockKey, parent: BlockKey?)] {
    let room = min(most, inFlightMax - entries.count)
    guard room > 0, !unsavedOrder.isEmpty else { return [] }
    let taken = unsavedOrder.prefix(room).map { ($0, unsaved.removeValue(forKey: $0) ?? nil) }
    unsavedOrder.removeFirst(taken.count)
    return taken
  }

  /// The store said which of a batch it lacks.
  ///
  /// - Returns: What the ranks are to stage, and the blocks that are held no more.
  package mutating func wanted(
    _ batch: UInt64, _ source: SourceID, _ places: [Int]
  ) -> (saves: [BlockSave], released: [BlockIndex]) {
    guard let offered = batches[batch], offered.source == source else { return ([], []) }
    batches[batch] = nil
    let wanted = Set(places)
    var (saves, released) = ([BlockSave](), [BlockIndex]())
    for (place, key) in offered.keys.enumerated() {
      guard let entry = entries[key], entry.source == source else { continue }
      if wanted.contains(place) {
        entries[key]?.phase = .staging(left: rankCount, isLost: false)
        saves.append(
          BlockSave(block: entry.block.block, key: key, store: source.incarnation))
      } else {
        entries[key] = nil
        released.append(entry.block.block)
      }
    }
    return (saves, released)
  }

  // MARK: Staging

  package enum Staged {
    case waiting
    /// Every rank has it.
    case commit(SourceID, CommittedBlock, BlockIndex)
    /// Some rank could not stage it, or its store died: it is held no more.
    case withdraw(SourceID, BlockKey, BlockIndex)
  }

  /// One rank has staged a block, or could not.
  package mutating func staged(_ staging: StagingResult) -> Staged {
    let key = staging.save.key
    guard let entry = entries[key], case .staging(let left, let wasLost) = entry.phase,
      entry.source.incarnation == staging.save.store
    else { preconditionFailure("a rank staged \(staging.save.block), which nobody ordered") }
    let isLost = wasLost || !staging.isStaged
    guard left == 1 else {
      entries[key]?.phase = .staging(left: left - 1, isLost: isLost)
      return .waiting
    }
    if isLost {
      entries[key] = nil
      remember(key, after: entry.block.parent)
      return .withdraw(entry.source, key, entry.block.block)
    }
    entries[key]?.phase = .committed
    // A pulled block is only sealed with its source's digests.
    let digests = entry.block.digests.map { $0.compactMap { $0 } }
    return .commit(
      entry.source,
      CommittedBlock(
        key: key, parent: entry.block.parent,
        digests: digests?.count == rankCount ? digests : nil), entry.block.block)
  }

  /// The store said what became of committed blocks.
  package mutating func ended(_ source: SourceID, _ results: [SaveOutcome]) {
    for result in results {
      guard let entry = entries[result.key], entry.source == source, case .committed = entry.phase
      else { continue }
      entries[result.key] = nil
      outcomes[result.kind, default: 0] += 1
      // A full pool, or bytes that are wrong, would be no better at once; what was lost may be.
      if result.kind == .lost { remember(result.key, after: entry.block.parent) }
    }
  }

  /// - Returns: The blocks that are held no more. What ranks were told to stage is held until they say.
  package mutating func died(_ source: SourceID) -> [BlockIndex] {
    var released: [BlockIndex] = []
    for batch in batches.keys where batches[batch]?.source == source { batches[batch] = nil }
    let keys = entries.filter { $0.value.source == source }.keys.sorted()
    for key in keys {
      guard let entry = entries[key] else { continue }
      switch entry.phase {
      case .offered:
        entries[key] = nil
        released.append(entry.block.block)
        remember(key, after: entry.block.parent)
      case .staging(let left, _): entries[key]?.phase = .staging(left: left, isLost: true)
      case .committed:
        entries[key] = nil
        remember(key, after: entry.block.parent)
      }
    }
    return released
  }

  // MARK: What is to be saved later

  private mutating func remember(_ key: BlockKey, after parent: BlockKey?) {
    guard unsaved[key] == nil else { return }
    if unsavedOrder.count >= unsavedMax { unsaved[unsavedOrder.removeFirst()] = nil }
    unsaved.updateValue(parent, forKey: key)
    unsavedOrder.append(key)
  }

  private mutating func forget(_ key: BlockKey) {
    guard unsaved.removeValue(forKey: key) != nil else { return }
    unsavedOrder.removeAll { $0 == key }
  }
}

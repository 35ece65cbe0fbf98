import RemoteG2Core
import Testing

@Suite struct `Blocks on their way into the own store` {
  static let store = SourceID.local(Incarnation(high: 1, low: 1))
  static let next = SourceID.local(Incarnation(high: 2, low: 2))

  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 1) }
  static func block(_ number: Int, digests: [Digest128?]? = nil) -> SealedBlock {
    SealedBlock(
      block: BlockIndex(number), key: key(number), parent: number > 0 ? key(number - 1) : nil,
      digests: digests)
  }
  static func staging(_ number: Int, _ isStaged: Bool = true) -> StagingResult {
    StagingResult(
      save: BlockSave(block: BlockIndex(number), key: key(number), store: store.incarnation),
      isStaged: isStaged)
  }

  /// A table in which these blocks are being staged.
  static func stagingTable(
    _ numbers: Range<Int>, ranks: Int = 1, digests: [Digest128?]? = nil
  ) -> SaveTable {
    var table = SaveTable(rankCount: ranks, inFlightMax: 8, unsavedMax: 4)
    let offer = table.offer(numbers.map { block($0, digests: digests) }, to: store)
    _ = table.wanted(offer.batch, store, Array(numbers.indices.map { $0 - numbers.lowerBound }))
    return table
  }

  @Test func `no more are in flight than may be, and the rest is offered when there is room`() {
    var table = SaveTable(rankCount: 1, inFlightMax: 3, unsavedMax: 10)
    let offer = table.offer((0..<5).map { Self.block($0) }, to: Self.store)
    #expect(offer.held == (0..<3).map { BlockIndex($0) })
    #expect(offer.keys == (0..<3).map(Self.key))
    #expect(table.inFlightCount == 3 && table.unsavedCount == 2)
    #expect(table.takeUnsaved(atMost: 9).isEmpty, "there is no room yet")
    // Nothing twice.
    #expect(table.offer([Self.block(1)], to: Self.store).held.isEmpty)
    let answer = table.wanted(offer.batch, Self.store, [0])
    #expect(answer.saves.map(\.block) == [BlockIndex(0)])
    #expect(answer.released == [BlockIndex(1), BlockIndex(2)])
    #expect(table.takeUnsaved(atMost: 1).map(\.key) == [Self.key(3)], "the oldest first")
    let last = table.takeUnsaved(atMost: 9)
    #expect(last.map(\.key) == [Self.key(4)] && last.first?.parent == Self.key(3))
    #expect(table.takeUnsaved(atMost: 9).isEmpty && table.unsavedCount == 0)
  }

  @Test func `what was lacking while the store was away is remembered, the newest of it`() {
    var table = SaveTable(rankCount: 1, inFlightMax: 8, unsavedMax: 3)
    let offer = table.offer((0..<5).map { Self.block($0) }, to: nil)
    #expect(offer.held.isEmpty && offer.keys.isEmpty && table.inFlightCount == 0)
    #expect(table.takeUnsaved(atMost: 9).map(\.key) == (2..<5).map(Self.key))
    // What is remembered and then offered by a request is not offered a second time.
    _ = table.offer((0..<2).map { Self.block($0) }, to: nil)
    _ = table.offer([Self.block(0)], to: Self.store)
    #expect(table.takeUnsaved(atMost: 9).map(\.key) == [Self.key(1)])
  }

  @Test func `an answer of another store, or to another offer, is nobody's`() {
    var table = SaveTable(rankCount: 1, inFlightMax: 8, unsavedMax: 4)
    let first = table.offer([Self.block(0)], to: Self.store)
    let second = table.offer([Self.block(1)], to: Self.store)
    #expect(first.batch != second.batch)
    #expect(table.wanted(first.batch, Self.next, [0]).saves.isEmpty)
    #expect(table.wanted(99, Self.store, [0]).saves.isEmpty)
    #expect(table.wanted(second.batch, Self.store, [0]).saves.map(\.block) == [BlockIndex(1)])
    #expect(table.wanted(second.batch, Self.store, [0]).saves.isEmpty, "answered twice")
    #expect(table.wanted(first.batch, Self.store, [0]).saves.map(\.block) == [BlockIndex(0)])
  }

  @Test func `a block is committed when every rank has staged it, once`() {
    var table = Self.stagingTable(0..<2, ranks: 3)
    for _ in 0..<2 {
      guard case .waiting = table.staged(Self.staging(0)) else {
        Issue.record("it was committed too early")
        return
      }
    }
    guard case .commit(let source, let block, let held) = table.staged(Self.staging(0)) else {
      Issue.record("it was not committed")
      return
    }
    #expect(source == Self.store && held == BlockIndex(0))
    #expect(block == CommittedBlock(key: Self.key(0), parent: nil, digests: nil))
    #expect(table.inFlightCount == 2)
    table.ended(Self.next, [SaveOutcome(key: Self.key(0), kind: .sealed)])
    #expect(table.outcomes == [:], "another store says so")
    table.ended(
      Self.store,
      [
        SaveOutcome(key: Self.key(0), kind: .sealed), SaveOutcome(key: Self.key(1), kind: .sealed),
      ])
    #expect(table.outcomes == [.sealed: 1], "block 1 is not committed yet")
    #expect(table.inFlightCount == 1 && table.unsavedCount == 0)
  }

  @Test(arguments: [[true, false], [false, true], [false, false]])
  func `a block that some rank could not stage is withdrawn, and offered again`(ranks: [Bool]) {
    var table = Self.stagingTable(1..<2, ranks: 2)
    _ = table.staged(Self.staging(1, ranks[0]))
    guard
      case .withdraw(Self.store, Self.key(1), BlockIndex(1)) = table.staged(
        Self.staging(1, ranks[1]))
    else {
      Issue.record("it was not withdrawn")
      return
    }
    #expect(table.inFlightCount == 0)
    #expect(table.takeUnsaved(atMost: 1).map(\.parent) == [Self.key(0)])
  }

  @Test func `a pulled block is committed with its source's digests, if every rank has one`() {
    let digest = Digest128(high: 1, low: 1)
    func committed(_ digests: [Digest128?]?) -> [Digest128]? {
      var table = Self.stagingTable(0..<1, ranks: 2, digests: digests)
      _ = table.staged(Self.staging(0))
      guard case .commit(_, let block, _) = table.staged(Self.staging(0)) else { return [] }
      return block.digests
    }
    #expect(committed([digest, digest]) == [digest, digest])
    #expect(committed([digest, nil]) == nil)
    #expect(committed(nil) == nil)
  }

  @Test func `of what a store has not kept only the lost is offered again`() {
    var table = Self.stagingTable(0..<5)
    for number in 0..<5 { _ = table.staged(Self.staging(number)) }
    let kinds: [SaveOutcome.Kind] = [.sealed, .present, .full, .wrongBytes, .lost]
    table.ended(
      Self.store, kinds.enumerated().map { SaveOutcome(key: Self.key($0), kind: $1) })
    #expect(table.inFlightCount == 0)
    #expect(table.outcomes == [.sealed: 1, .present: 1, .full: 1, .wrongBytes: 1, .lost: 1])
    #expect(table.takeUnsaved(atMost: 9).map(\.key) == [Self.key(4)])
  }

  @Test func `a store's death ends what it was offered and told, and what is staged is waited for`()
  {
    var table = SaveTable(rankCount: 1, inFlightMax: 8, unsavedMax: 8)
    let first = table.offer([Self.block(0), Self.block(1)], to: Self.store)
    _ = table.wanted(first.batch, Self.store, [0, 1])
    _ = table.staged(Self.staging(0))
    let second = table.offer([Self.block(2)], to: Self.store)
    let released = table.died(Self.store)
    // Block 0 is committed and 2 was offered; 1 is being copied out of G1.
    #expect(released == [BlockIndex(2)] && table.inFlightCount == 1)
    #expect(table.wanted(second.batch, Self.store, [0]).saves.isEmpty)
    guard case .withdraw = table.staged(Self.staging(1)) else {
      Issue.record("what the dead store was to have is not withdrawn")
      return
    }
    #expect(Set(table.takeUnsaved(atMost: 9).map(\.key)) == Set((0..<3).map(Self.key)))
  }
}

import KVConnector
import RemoteG2Core
import Testing

/// When an engine may sleep, and what it is told of what goes on.
@Suite struct `A connector between steps` {
  static func blocks(_ range: Range<Int>) -> [BlockIndex] { range.map { BlockIndex($0) } }
  static func sealed(_ range: Range<Int>) -> [SealedBlock] {
    range.map { SealedBlock(block: BlockIndex($0), key: BlockKey(high: UInt64($0), low: 8)) }
  }
  static func report(_ change: (inout RankReport) -> Void = { _ in }) -> RankReport {
    var report = RankReport(rank: 0, sequence: 0)
    change(&report)
    return report
  }

  /// The own store is there, and the one rank can stage for it.
  static func attachOwnStore(_ desk: Desk) -> SourceID {
    let own = SourceID.local(Incarnation(high: 6, low: 6))
    desk.control.localStore = own
    desk.attach(own)
    return own
  }

  @Test func `steps on while a fetch is open, and at once where it has something to say`() throws {
    let desk = try Desk()
    #expect(!desk.connector.isBusy && !desk.connector.wantsStep)
    _ = try desk.match(0)
    #expect(desk.connector.isBusy && !desk.connector.wantsStep, "the source is being asked")
    desk.grant(4)
    #expect(desk.connector.wantsStep, "the grant is to be bound")
    _ = try desk.match(0)
    desk.connector.bind(RequestID(1), to: Self.blocks(0..<4), at: desk.now)
    #expect(desk.connector.wantsStep, "an order waits for its plan")
    _ = desk.connector.plan(at: desk.now)
    _ = desk.connector.absorb([Self.report()], at: desk.now)
    #expect(desk.connector.isBusy && !desk.connector.wantsStep, "the ranks read")
    desk.connector.finish(RequestID(1))
    #expect(desk.connector.wantsStep, "its fetch is to be cancelled")
    _ = desk.connector.absorb(
      [Self.report { $0.progress[FetchID(1)] = RankProgress(landed: 4, posting: .ended) }],
      at: desk.now)
    _ = desk.connector.plan(at: desk.now)
    _ = desk.connector.absorb([Self.report()], at: desk.now)
    #expect(!desk.connector.isBusy && !desk.connector.wantsStep && desk.isClean)
  }

  @Test func `steps on while a block is being saved`() throws {
    let desk = try Desk()
    let own = Self.attachOwnStore(desk)
    #expect(!desk.connector.isBusy)
    let held = desk.connector.sealed(Self.sealed(0..<2), at: desk.now)
    #expect(held == Self.blocks(0..<2) && desk.connector.open.saving == 2)
    #expect(desk.connector.isBusy && !desk.connector.wantsStep, "the store is being asked")
    guard case .offer(let batch, own, let keys)? = desk.control.posted.last else {
      Issue.record("nothing was offered")
      return
    }
    #expect(keys == Self.sealed(0..<2).map(\.key))
    desk.control.answers.append(.wanted(batch: batch, own, [1]))
    let released = desk.connector.absorb([Self.report()], at: desk.now).released
    #expect(released == Self.blocks(0..<1), "the store has it")
    #expect(desk.connector.wantsStep, "the ranks are to stage the other")
    guard case .stage(let saves)? = desk.connector.plan(at: desk.now).first else {
      Issue.record("nothing is staged")
      return
    }
    #expect(saves.map(\.block) == Self.blocks(1..<2))
    let staged = Self.report { $0.stagings = [StagingResult(save: saves[0], isStaged: true)] }
    #expect(desk.connector.absorb([staged], at: desk.now).released == Self.blocks(1..<2))
    #expect(desk.connector.isBusy, "the store has still to say what became of it")
    desk.control.answers.append(
      .saved(own, [SaveOutcome(key: saves[0].key, kind: .sealed)]))
    _ = desk.connector.absorb([Self.report()], at: desk.now)
    #expect(!desk.connector.isBusy && desk.connector.saveOutcomes == [.sealed: 1])
  }

  @Test func `offers nothing once it is off, and nothing again while the store is away`() throws {
    let desk = try Desk()
    #expect(desk.connector.sealed(Self.sealed(0..<2), at: desk.now) == [])
    #expect(desk.connector.unsaved(atMost: 9, at: desk.now) == [], "the store is away")
    _ = Self.attachOwnStore(desk)
    #expect(desk.connector.unsaved(atMost: 1, at: desk.now).map(\.key.high) == [0])
    desk.connector.turnOff()
    #expect(desk.connector.unsaved(atMost: 9, at: desk.now) == [])
    #expect(desk.connector.sealed(Self.sealed(4..<5), at: desk.now) == [])
    #expect(try desk.match(0) == .none && desk.connector.fallbacks == [.connectorOff: 1])
    #expect(try desk.match(0) == .none && desk.connector.fallbacks == [.connectorOff: 1])
  }

  @Test func `tells every event of a pull that is cut short, in order`() throws {
    var desk = try Desk()
    _ = try desk.match(0, blocksMax: 4)
    desk.grant(4)
    _ = try desk.match(0, blocksMax: 4)
    desk.connector.bind(RequestID(1), to: Self.blocks(0..<4), at: desk.now)
    _ = desk.connector.plan(at: desk.now)
    let failed = RankProgress(
      landed: 2, posting: .ended, failure: .backend("x"), unquiet: [2, 3])
    _ = desk.connector.absorb([Self.report { $0.progress[FetchID(1)] = failed }], at: desk.now)
    desk.now = desk.now + .milliseconds(1)
    desk.control.answers.append(.confirmed(FetchID(1), .intact(2)))
    let outcome = desk.connector.absorb([Self.report()], at: desk.now)
    let result = try #require(outcome.settled.first)
    #expect(result.valid.map(\.block) == Self.blocks(0..<2) && result.failed == Self.blocks(2..<4))
    #expect(result.unquiet == Self.blocks(2..<4) && desk.connector.open.quarantined == 2)
    #expect(result.reason == .transferFailed && result.settledAt == desk.now)
    let quiet = RankProgress(landed: 2, posting: .ended, failure: .backend("x"))
    let last = desk.connector.absorb(
      [Self.report { $0.progress[FetchID(1)] = quiet }], at: desk.now)
    #expect(last.quieted == Self.blocks(2..<4) && desk.isClean)
    let told = desk.log.events
    #expect(
      told.map(\.kind) == [
        .planned, .resolved, .bound, .started, .confirmed, .released, .fallback, .salvaged,
        .published, .quarantined, .quieted,
      ], "\(told.map(\.kind))")
    #expect(told.compactMap(\.blocks) == [4, 4, 4, 4, 2, 2, 2, 2, 2], "\(told.map(\.blocks))")
    #expect(desk.connector.fallbacks == [.transferFailed: 1])
    #expect(desk.connector.reasons(of: RequestID(1)) == [.transferFailed])
  }

  @Test func `is due at the earliest of its deadlines, of a question or of a wait`() throws {
    let desk = try Desk()
    #expect(desk.connector.nextDeadline == nil)
    _ = try desk.match(0)
    let asked = try #require(desk.connector.nextDeadline)
    #expect(asked == desk.now + .milliseconds(50))
    // Another request waits for a handshake: 6 ms, a tenth of what it would compute.
    desk.control.peers["Q"] = .notReady
    let view = RequestView(
      id: RequestID(2), keys: (50..<62).map { BlockKey(high: UInt64($0), low: 1) }, blocksMax: 3,
      hint: try Hint(version: 1, store: "Q", blocksMax: nil, limits: Limits()))
    #expect(desk.connector.match(view, computed: 0, at: desk.now) == .undecided)
    #expect(desk.connector.nextDeadline == desk.now + .milliseconds(6))
    desk.connector.finish(RequestID(2))
    #expect(desk.connector.nextDeadline == asked)
  }
}

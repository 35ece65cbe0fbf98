import KVTransfer
import RemoteG2Core
import Testing

@Suite struct `A pump's report` {
  static let p = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
  static let q = SourceID.peer(name: "Q", Incarnation(high: 2, low: 2))
  static let save = BlockSave(
    block: BlockIndex(1), key: BlockKey(high: 1, low: 1), store: Incarnation(high: 3, low: 3))

  @Test func `is empty only while there is nothing at all to tell`() {
    #expect(PumpReport().isEmpty)
    let changes: [(inout PumpReport) -> Void] = [
      { $0.progress[FetchID(1)] = RankProgress() }, { $0.loadErrors = [BlockIndex(1)] },
      { $0.stagings = [StagingResult(save: Self.save, isStaged: true)] },
      { $0.unlinked = [Incarnation(high: 3, low: 3)] },
      { $0.moved[Self.p] = .init(bytes: 1, duration: .seconds(1)) },
      { $0.attached[1] = .some(nil) },
    ]
    for change in changes {
      var report = PumpReport()
      change(&report)
      #expect(!report.isEmpty, "\(report)")
    }
  }

  @Test func `takes up what came later: states replace, news is added, sums are added up`() {
    var report = PumpReport()
    report.progress = [FetchID(1): RankProgress(landed: 1), FetchID(2): RankProgress(landed: 2)]
    report.loadErrors = [BlockIndex(1)]
    report.stagings = [StagingResult(save: Self.save, isStaged: true)]
    report.unlinked = [Incarnation(high: 3, low: 3)]
    report.moved = [Self.p: .init(bytes: 10, duration: .seconds(1))]
    report.attached = [1: .unknownSource]
    var later = PumpReport()
    later.progress = [FetchID(2): RankProgress(landed: 5)]
    later.loadErrors = [BlockIndex(2)]
    later.stagings = [StagingResult(save: Self.save, isStaged: false)]
    later.unlinked = [Incarnation(high: 3, low: 3), Incarnation(high: 4, low: 4)]
    later.moved = [
      Self.p: .init(bytes: 5, duration: .seconds(2)),
      Self.q: .init(bytes: 7, duration: .seconds(3)),
    ]
    later.attached = [1: nil, 2: .unknownSource]
    report.merge(later)
    #expect(report.progress.mapValues(\.landed) == [FetchID(1): 1, FetchID(2): 5])
    #expect(report.loadErrors == [BlockIndex(1), BlockIndex(2)])
    #expect(report.stagings.map(\.isStaged) == [true, false])
    #expect(report.unlinked == [Incarnation(high: 3, low: 3), Incarnation(high: 4, low: 4)])
    #expect(report.moved[Self.p] == .init(bytes: 15, duration: .seconds(3)))
    #expect(report.moved[Self.q] == .init(bytes: 7, duration: .seconds(3)))
    #expect(report.attached == [1: nil, 2: .unknownSource])
  }
}

import KVLayout
import RemoteG2Core
import RemoteG2Engine
import Testing

/// How plans and reports travel between the processes of a group.
@Suite struct `Step codec` {
  static let id = Incarnation(high: 1, low: 2)
  static let key = BlockKey(high: 3, low: 4)
  static let peer = SourceID.peer(name: "worker-a", Incarnation(high: 8, low: 9))
  static let save = BlockSave(block: BlockIndex(12), key: key, store: id)

  static let orders: [RankOrder] = [
    .load(
      FetchID(7), from: peer,
      moves: [BlockMove(target: BlockIndex(1), source: SlotIndex(900), generation: 5)],
      stall: .milliseconds(150)),
    .load(FetchID(8), from: .local(id), moves: [], stall: nil),
    .stopPosting(FetchID(9)),
    .checkDigests(
      FetchID(1),
      [ExpectedBlock(key: key, digests: [Digest128(high: 5, low: 6), nil])]),
    .forget(FetchID(UInt64.max)),
    .stage([save, save]),
    .sourceDied(peer),
    .attach(
      3, peer,
      [
        .remote(
          RankPool(metadata: [0, 255, 7], address: .max, slotCount: 4, blockBytes: 1 << 21)),
        .own(socket: "/run/a.sock", engine: id),
      ]),
    .rig([]), .rig([0, 255, 7]),
  ]

  static func report() -> RankReport {
    var report = RankReport(rank: 2, sequence: 99)
    let failures: [TransferFailure?] = [
      nil, .rejected("no"), .backend("NIXL_ERR"), .changed(SlotIndex(4)), .unknownSource,
    ]
    let postings: [RankProgress.Posting] = [.idle, .open, .stopped, .ended]
    for (number, failure) in failures.enumerated() {
      report.progress[FetchID(UInt64(number))] = RankProgress(
        landed: number, posting: postings[number % 4], failure: failure, unquiet: Array(0..<number),
        lastLanding: number == 3 ? LocalInstant(nanoseconds: -5) : nil,
        stalledAt: number == 4 ? LocalInstant(nanoseconds: 1 << 60) : nil,
        active: .microseconds(number), proved: number == 1 ? 3 : nil)
    }
    report.loadErrors = [BlockIndex(3), BlockIndex(0)]
    report.stagings = [
      StagingResult(save: save, isStaged: true), StagingResult(save: save, isStaged: false),
    ]
    report.bytesMoved = [
      peer: .init(bytes: 1 << 40, duration: .seconds(2)),
      .local(id): .init(bytes: 1, duration: .zero),
    ]
    report.unlinked = [id]
    report.attached = [4: true, 5: false]
    report.counts.transfersInFlight = 6
    report.counts.bytesMoved = 7
    report.counts.bytesLate = 8
    report.counts.rigCount = 9
    report.counts.savesDropped = 10
    report.at = LocalInstant(nanoseconds: 77)
    report.kvDigests = [Digest128(high: 1, low: .max)]
    return report
  }

  static func plan() -> StepPlan {
    StepPlan(
      sequence: 41, orders: orders,
      spans: [
        SequenceSpan(tokens: [1, -2, .max], position: 1024, blocks: [7, 8], wantsLogits: true),
        SequenceSpan(tokens: [], position: 0, blocks: [], wantsLogits: false),
      ], digests: [KVDigestOrder(blocks: [3, 1], tokens: 40)], isLast: true)
  }

  @Test func `every plan is read as it was written, and no part of it is a plan`() throws {
    var writer = ByteWriter()
    Self.plan().write(to: &writer)
    try check(writer.bytes, is: Self.plan()) { reader throws(WireError) in
      try StepPlan(from: &reader)
    }
  }

  @Test func `every report is read as it was written, and no part of it is a report`() throws {
    var writer = ByteWriter()
    writer.report(Self.report())
    try check(writer.bytes, is: Self.report()) { reader throws(WireError) in
      try reader.report()
    }
  }

  private func check<Value: Equatable>(
    _ bytes: [UInt8], is expected: Value,
    _ read: (inout ByteReader) throws(WireError) -> Value
  ) throws {
    func whole(_ bytes: some Collection<UInt8>) throws(WireError) -> Value {
      let copy = Array(bytes)
      var result: Result<Value, WireError> = .failure(.truncated)
      copy.withUnsafeBytes { bytes in
        var reader = ByteReader(bytes)
        do throws(WireError) {
          let value = try read(&reader)
          try reader.end()
          result = .success(value)
        } catch { result = .failure(error) }
      }
      return try result.get()
    }
    #expect(try whole(bytes) == expected)
    for length in 0..<bytes.count {
      #expect(throws: WireError.self) { try whole(bytes.prefix(length)) }
    }
    #expect(throws: WireError.trailing(1)) { try whole(bytes + [0]) }
  }
}

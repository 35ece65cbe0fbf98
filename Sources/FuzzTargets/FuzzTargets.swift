import RemoteG2Core

/// What reads bytes that somebody else wrote: each is given any bytes at all, and must end, trap nowhere, and say the same
/// of a message that it has read and written itself.
package enum FuzzTarget: String, CaseIterable, Sendable {
  case stream, local, plan, report, order, rankReport, keeper, services, table
  case watch, serve, pull, engine

  package func run(_ bytes: UnsafeRawBufferPointer) {
    switch self {
    case .stream: Self.stream(bytes)
    case .local:
      again(bytes, { try LocalCodec.decode($0) }, LocalCodec.encode)
    case .plan: again(bytes, { try StagedCodec.plan($0) }, StagedCodec.encode)
    case .report: again(bytes, { try StagedCodec.report($0) }, StagedCodec.encode)
    case .order:
      readOnly(bytes) { input throws(WireError) in _ = try input.order() }
    case .rankReport:
      readOnly(bytes) { input throws(WireError) in _ = try input.report() }
    case .keeper: again(bytes, { try KeeperMessage($0) }, \.bytes)
    case .services: _ = try? DNSAnswer.services(Array(bytes))
    case .table: Self.table(bytes)
    case .watch: FuzzedNode.watch(bytes)
    case .serve: FuzzedNode.serve(bytes)
    case .pull: FuzzedNode.pull(bytes)
    case .engine: FuzzedNode.engine(bytes)
    }
  }

  /// What was read, and is written and read again, is the same.
  private func again<Message: Equatable>(
    _ bytes: UnsafeRawBufferPointer, _ read: (UnsafeRawBufferPointer) throws -> Message,
    _ write: (Message) -> [UInt8]
  ) {
    guard let message = try? read(bytes) else { return }
    let second = write(message).withUnsafeBytes { try? read($0) }
    precondition(second == message, "\(message) becomes \(String(describing: second))")
  }

  private func readOnly(
    _ bytes: UnsafeRawBufferPointer, _ read: (inout ByteReader) throws(WireError) -> Void
  ) {
    var input = ByteReader(bytes)
    do throws(WireError) { try read(&input) } catch { return }
  }

  private static func stream(_ bytes: UnsafeRawBufferPointer) {
    var intake = FrameIntake()
    var rest = bytes[...]
    while !rest.isEmpty {
      let piece = rest.prefix(intake.wanted)
      rest = rest.dropFirst(piece.count)
      do throws(WireError) {
        guard let message = try intake.take(UnsafeRawBufferPointer(rebasing: piece)) else {
          continue
        }
        let frame = StreamCodec.encode(message)
        let second = frame.withUnsafeBytes {
          try? StreamCodec.decode(
            UnsafeRawBufferPointer(rebasing: $0[StreamCodec.lengthBytes...]))
        }
        precondition(second == message, "\(message) becomes \(String(describing: second))")
      } catch { return }
    }
  }

  private final class Words: TableWords, @unchecked Sendable {
    // @unchecked: one call uses it.
    private var words: [UInt64]
    init(_ words: [UInt64]) { self.words = words }
    func load(_ index: Int) -> UInt64 { words[index] }
    func store(_ index: Int, _ value: UInt64) { words[index] = value }
    func publish(_ index: Int, _ value: UInt64) { words[index] = value }
    func fence() {}
  }

  /// The last byte says whether the header is to be right.
  private static func table(_ bytes: UnsafeRawBufferPointer) {
    let found = (0..<bytes.count / 8).map {
      UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: $0 * 8, as: UInt64.self))
    }
    let (slots, ranks) = (5, 2)
    let count = SlotTable<Words>.wordCount(slotCount: slots, rankCount: ranks)
    let isHeader = bytes.last.map { $0 & 1 == 0 } ?? true
    var all = isHeader ? found : Array(repeating: 0, count: TableHeader.wordCount) + found
    if all.count < count { all += Array(repeating: 0, count: count - all.count) }
    let words = Words(all)
    if isHeader, case .success(let header) = TableHeader.read(words, wordCount: count) {
      precondition(header.slotCount > 0 && header.terms.blockBytes > 0)
    }
    let table = SlotTable(words, slotCount: slots, rankCount: ranks)
    let adoption = Adoption(table) { rank, slot in
      let word = found.isEmpty ? 0 : found[(slot.index * ranks + rank) % found.count]
      return word & 1 == 0 ? table.kept(slot).map { SlotWord.readable($0.generation) } ?? 0 : word
    }
    guard !adoption.isTorn else { return }
    var pool = SlotPool(slotCount: slots, rankCount: ranks, tellsChanges: true, hasTable: true)
    pool.adopt(adoption)
    for kept in adoption.kept { pool.verified(kept, isRight: kept.key.low & 1 == 0) }
    _ = pool.evictUnpinned()
    precondition(pool.freeCount == slots, "a slot is lost")
  }
}

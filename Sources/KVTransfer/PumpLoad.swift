import RemoteG2Core

/// One fetch's reads on one rank: cut into transfers, posted in token order.
struct PumpLoad {
  enum Outcome: Equatable { case waiting, posted, landed, failed, quiet }

  struct Chunk {
    let range: Range<Int>
    var outcome: Outcome = .waiting
    var postedAt = LocalInstant(nanoseconds: 0)
  }

  let source: SourceID
  let moves: [BlockMove]
  var chunks: [Chunk]
  var isStopped = false
  var failure: TransferFailure?
  var hasReportedErrors = false
  var lastLanding: LocalInstant?
  var proved: Int?
  /// Digests still to be compared: expected values of the leading blocks, and how far it got.
  var check: (expected: [Digest128?], done: Int)?

  init(source: SourceID, moves: [BlockMove], blocksPerTransfer: Int) {
    self.source = source
    self.moves = moves
    chunks = stride(from: 0, to: moves.count, by: blocksPerTransfer).map {
      Chunk(range: $0..<min($0 + blocksPerTransfer, moves.count))
    }
  }

  /// The next transfer to post, or nil when nothing more will be or may be posted.
  var nextToPost: Int? {
    isStopped || failure != nil ? nil : chunks.firstIndex { $0.outcome == .waiting }
  }

  var postedCount: Int { chunks.count { $0.outcome == .posted } }

  /// Leading blocks whose transfers ended in success.
  var landed: Int {
    chunks.firstIndex { $0.outcome != .landed }.map { chunks[$0].range.lowerBound } ?? moves.count
  }

  /// Positions whose transfers are posted and not quiet.
  var unquiet: [Int] {
    chunks.flatMap { $0.outcome == .posted || $0.outcome == .failed ? Array($0.range) : [] }
  }

  var isQuiet: Bool { nextToPost == nil && unquiet.isEmpty }

  var progress: RankProgress {
    RankProgress(
      landed: landed, isTerminal: nextToPost == nil && postedCount == 0, failure: failure,
      isQuiet: isQuiet, isStopped: nextToPost == nil, unquiet: unquiet, lastLanding: lastLanding,
      proved: proved)
  }

  /// The target blocks that did not land, the first time it is known that they will not.
  mutating func takeErrors() -> [BlockIndex] {
    let isOver = isStopped || (failure != nil && postedCount == 0)
    guard !hasReportedErrors, isOver, landed < moves.count else { return [] }
    hasReportedErrors = true
    return moves[landed...].map(\.target)
  }
}

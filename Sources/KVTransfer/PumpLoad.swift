import RemoteG2Core

/// One fetch's reads on one rank: cut into transfers, posted in token order.
///
/// A class, because it changes with every transfer and a copy would cost its whole length.
final class PumpLoad {
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
  var check: (expected: [ExpectedBlock], done: Int)?
  /// How long nothing may land; nil: it cannot stall.
  private let stall: Duration?
  /// Since the first post or the last landing, without the time in which the pump itself was late.
  private var silence: Duration = .zero
  /// From the first post to the last landing, counted likewise.
  private var moving: Duration = .zero
  private var stalledAt: LocalInstant?
  /// Since when something of it is under way without a pause.
  private var underWaySince = LocalInstant(nanoseconds: 0)

  init(source: SourceID, moves: [BlockMove], blocksPerTransfer: Int, stall: Duration?) {
    self.stall = stall
    self.source = source
    self.moves = moves
    chunks = stride(from: 0, to: moves.count, by: blocksPerTransfer).map {
      Chunk(range: $0..<min($0 + blocksPerTransfer, moves.count))
    }
  }

  /// Transfers before this one have landed; those from ``waitingFirst`` on have not been posted. What
  /// lies between is all that can change, so that a long load costs no more a turn than a short one.
  private var landedCount = 0
  private var waitingFirst = 0

  private var active: Range<Int> {
    while landedCount < chunks.count, chunks[landedCount].outcome == .landed { landedCount += 1 }
    waitingFirst = max(waitingFirst, landedCount)
    while waitingFirst < chunks.count, chunks[waitingFirst].outcome != .waiting {
      waitingFirst += 1
    }
    return landedCount..<waitingFirst
  }

  /// The pump came, and looked, `elapsed` after it had looked before.
  ///
  /// - Parameter isLate: It came later than it ever naps: the processor was somebody else's, and what
  ///   the source did meanwhile is not known.
  /// - Returns: Whether the load has just stalled.
  func timePassed(_ elapsed: Duration, isLate: Bool, _ limits: Limits, at now: LocalInstant) -> Bool
  {
    // Nothing of it is under way, so nothing can land.
    guard postedCount > 0, !isStopped, stalledAt == nil else { return false }
    let elapsed = min(elapsed, now - underWaySince)
    silence += isLate ? min(elapsed, limits.pumpLateCharge) : elapsed
    guard let stall, silence >= stall else { return false }
    stalledAt = now
    return true
  }

  func landed(at now: LocalInstant) {
    moving += silence
    silence = .zero
    lastLanding = now
  }

  func posted(_ index: Int, at now: LocalInstant) {
    if postedCount == 0 { underWaySince = now }
    chunks[index].outcome = .posted
    chunks[index].postedAt = now
  }

  /// The next transfer to post, or nil when nothing more will be or may be posted.
  var nextToPost: Int? {
    guard !isStopped, failure == nil else { return nil }
    let next = active.upperBound
    return next < chunks.count ? next : nil
  }

  var postedCount: Int { active.count { chunks[$0].outcome == .posted } }

  /// Leading blocks whose transfers ended in success.
  var landed: Int {
    let first = active.lowerBound
    return first < chunks.count ? chunks[first].range.lowerBound : moves.count
  }

  /// Positions whose transfers are posted and not quiet.
  var unquiet: [Int] {
    active.flatMap { index in
      let outcome = chunks[index].outcome
      return outcome == .posted || outcome == .failed ? Array(chunks[index].range) : []
    }
  }

  var isQuiet: Bool { nextToPost == nil && unquiet.isEmpty }

  var progress: RankProgress {
    RankProgress(
      landed: landed, posting: nextToPost != nil ? .open : postedCount > 0 ? .stopped : .ended,
      failure: failure, unquiet: unquiet, lastLanding: lastLanding, stalledAt: stalledAt,
      active: moving, proved: proved)
  }

  /// The target blocks that did not land, the first time it is known that they will not.
  func takeErrors() -> [BlockIndex] {
    let isOver = isStopped || (failure != nil && postedCount == 0)
    guard !hasReportedErrors, isOver, landed < moves.count else { return [] }
    hasReportedErrors = true
    return moves[landed...].map(\.target)
  }
}

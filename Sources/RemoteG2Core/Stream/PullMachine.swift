/// One answer on its way in, as who asked for it sees it: what the next bytes are, and when their silence is over.
///
/// Pure. The shell receives as much as ``need`` says, digests what goes into a slot, and tells what came.
package struct PullMachine: Sendable {
  /// What the next bytes are.
  package enum Need: Equatable, Sendable {
    /// So many of a frame, at most.
    case frame(Int)
    /// Of a block, on this rank, from this offset in its slot on.
    case body(SlotIndex, rank: Int, offset: Int, count: Int)
    /// Of a block that is here already: they are read and dropped.
    case dropped(Int)
  }

  /// What came of bytes that were received.
  package enum Step: Equatable, Sendable {
    case more
    /// A block comes: where to, ``NodeCore/arriving(_:position:)`` says, and ``place(_:)`` hears.
    case arriving(position: Int)
    /// Of a block, a rank's bytes are all here.
    case rankWhole
    /// And those of its last rank. They are the block if they have these digests.
    case blockWhole(SlotIndex, UInt32, digests: [Digest128])
    /// A block that is here already has passed.
    case skipped
    case ended(PullEnd)
  }

  private enum Stage: Sendable {
    case frame
    /// Its frame is here; nobody has said yet where its bytes belong.
    case placing(position: Int, digests: [Digest128])
    case body(SlotIndex, UInt32, digests: [Digest128], rank: Int, done: Int)
    case skipping(left: Int)
  }

  package let terms: PoolTerms
  package let keys: [BlockKey]
  /// What waits to be sent.
  package var outgoing = SendQueue()
  private let limits: Limits
  /// How long no byte may come.
  private let patience: Duration
  private let askedAt: LocalInstant
  private var intake = FrameIntake()
  private var stage = Stage.frame
  private var silence: Silence
  private var isWelcomed: Bool
  /// Of the block that is arriving, or was last.
  package private(set) var position = 0
  /// Who is being sent the same, by the word of one that was busy.
  package private(set) var others: [PeerName] = []
  /// From the question to the first byte of its answer; nil before it.
  package private(set) var firstByteAfter: Duration?
  /// Bytes of blocks that have come.
  package private(set) var received = 0
  /// Until the first block is whole: then blocks say more.
  private var pace: PullPace?

  /// - Parameters:
  ///   - hello: For a connection that is new.
  ///   - patience: How long no byte may come.
  package init(
    hello: StreamHello?, terms: PoolTerms, keys: [BlockKey], patience: Duration, limits: Limits,
    at now: LocalInstant
  ) {
    self.terms = terms
    self.keys = keys
    self.limits = limits
    self.patience = patience
    askedAt = now
    silence = Silence(since: now)
    pace = PullPace(limits)
    isWelcomed = hello == nil
    if let hello { outgoing.add(.hello(hello)) }
    for first in stride(from: 0, to: keys.count, by: StreamCodec.keysPerPage) {
      let end = min(first + StreamCodec.keysPerPage, keys.count)
      outgoing.add(.ask(keys: Array(keys[first..<end]), isLast: end == keys.count))
    }
  }

  package var need: Need {
    switch stage {
    case .frame: return .frame(intake.wanted)
    case .placing: preconditionFailure("a block's place is to be told before its bytes are read")
    case .body(let slot, _, _, let rank, let done):
      return .body(slot, rank: rank, offset: done, count: terms.blockBytes - done)
    case .skipping(let left): return .dropped(left)
    }
  }

  // MARK: What came

  /// - Parameter piece: At most as many bytes of a frame as were needed.
  package mutating func took(_ piece: UnsafeRawBufferPointer) -> Step {
    do throws(WireError) {
      guard let message = try intake.take(piece) else { return .more }
      return said(message)
    } catch { return .ended(.invalid) }
  }

  private mutating func said(_ message: StreamMessage) -> Step {
    switch message {
    case .welcome where !isWelcomed:
      isWelcomed = true
      return .more
    case .refused: return .ended(.refused)
    case .block(let position, let digests) where isWelcomed:
      guard digests.count == terms.rankCount else { return .ended(.invalid) }
      stage = .placing(position: position, digests: digests)
      return .arriving(position: position)
    case .end(let how) where isWelcomed:
      switch how {
      case .served: return .ended(.served)
      case .lacking: return .ended(.lacking)
      }
    case .busy(let others) where isWelcomed:
      self.others = others
      return .ended(.busy)
    default: return .ended(.invalid)
    }
  }

  /// Where the bytes of the block that is arriving belong.
  package mutating func place(_ arrival: BlockArrival) -> Step {
    guard case .placing(let position, let digests) = stage else {
      preconditionFailure("no block is arriving")
    }
    switch arrival {
    case .stop: return .ended(.unneeded)
    case .invalid: return .ended(.invalid)
    case .skip: stage = .skipping(left: terms.bytesOfAllRanks)
    case .write(let slot, let generation):
      self.position = position
      stage = .body(slot, generation, digests: digests, rank: 0, done: 0)
    }
    return .more
  }

  /// So many of the bytes that were needed are where they belong, or dropped.
  package mutating func took(_ count: Int) -> Step {
    received += count
    switch stage {
    case .frame, .placing: preconditionFailure("bytes of a block came where there is none")
    case .skipping(let left):
      precondition(count <= left)
      guard count == left else {
        stage = .skipping(left: left - count)
        return .more
      }
      stage = .frame
      pace = nil
      return .skipped
    case .body(let slot, let generation, let digests, let rank, let done):
      precondition(done + count <= terms.blockBytes)
      guard done + count == terms.blockBytes else {
        stage = .body(slot, generation, digests: digests, rank: rank, done: done + count)
        return .more
      }
      guard rank + 1 < terms.rankCount else {
        stage = .frame
        pace = nil
        return .blockWhole(slot, generation, digests: digests)
      }
      stage = .body(slot, generation, digests: digests, rank: rank + 1, done: 0)
      return .rankWhole
    }
  }

  // MARK: Time

  /// Bytes have come.
  ///
  /// - Returns: How fast they come, in bytes a second, where that has become known before the first block is whole:
  ///   ``NodeCore/paced(_:bytesPerSecond:received:at:)`` hears it.
  @discardableResult
  package mutating func heard(at now: LocalInstant) -> Double? {
    silence = Silence(since: now)
    let first = firstByteAfter ?? now - askedAt
    firstByteAfter = first
    return pace?.heard(received, firstByteAfter: first, at: now)
  }

  /// No byte has come.
  ///
  /// - Parameter lateness: How much later this is than the wait before it was meant to end.
  package mutating func judge(lateness: Duration, at now: LocalInstant) -> Step {
    silence.isOver(after: patience, lateness: lateness, limits, at: now) ? .ended(.stalled) : .more
  }

  package var stallsAt: LocalInstant { silence.since + patience }
}

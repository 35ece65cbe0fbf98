/// One answer that a node is being sent by another. Never reused by a node.
package struct StreamID: Hashable, Comparable, Sendable, CustomStringConvertible {
  package let value: UInt64
  package init(_ value: UInt64) { self.value = value }
  package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  package var description: String { "stream \(value)" }
}

/// One of a node's pools. Never reused by a node.
package struct PoolNumber: Hashable, Comparable, Sendable, CustomStringConvertible {
  package let value: Int
  package init(_ value: Int) { self.value = value }
  package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  package var description: String { "pool \(value)" }
}

/// What a node's shells are ordered, to be carried out in the order given.
package enum NodeAction: Equatable, Sendable {
  /// For the thread of the node's own engines. `pool` is the one it is about; nil where there is none yet.
  case local(LocalAction, pool: PoolNumber?)
  /// Make the memory of a pool. Answered by ``NodeCore/poolMade(_:_:at:)``.
  case makePool(PoolNumber, PoolTerms, slotCount: Int)
  /// Ask a member for these blocks, and give it up when no byte has come for `patience`.
  case pull(
    StreamID, from: PeerName, PoolNumber, PoolTerms, keys: [BlockKey], patience: Duration)
  /// Nobody waits for it any more.
  case cancel(StreamID)
  /// Watchers have something to hear.
  case feedChanged
  /// Start the process that peers read this pool from. Answered by ``NodeCore/agentServes(_:_:_:)``, and when it
  /// has ended by ``NodeCore/agentEnded(_:_:next:at:)``.
  case startAgent(PoolNumber, Incarnation)
  /// The pool has gone, or its agent was not ready in time. Answered like any other end.
  case endAgent(PoolNumber)
}

/// What is to be done with a block that arrives.
package enum BlockArrival: Equatable, Sendable {
  /// Its bytes belong there. The slot's words have to be changed before.
  case write(SlotIndex, generation: UInt32)
  /// It is here already: its bytes are read and dropped.
  case skip
  /// Nothing more of this answer is of use here: nobody waits for it, or the pool is full or gone.
  case stop
  /// It is not the block that comes next: the member is at fault.
  case invalid
}

/// How a pull ended.
package enum PullEnd: String, Equatable, Sendable, CaseIterable {
  /// All that was asked for came.
  case served
  /// What came was of no more use here.
  case unneeded
  /// The member has no more of it.
  case lacking
  /// The member has no room for another reader.
  case busy
  /// It may not share with us.
  case refused
  /// No byte came for too long.
  case stalled
  /// The connection could not be made, or broke.
  case broken
  /// It said what it should not, or sent bytes without the digest that they came with.
  case invalid
}

extension PullEnd {
  /// Whether the connection is good for another question.
  package var keepsConnection: Bool {
    switch self {
    case .served, .lacking, .busy: true
    case .unneeded, .refused, .stalled, .broken, .invalid: false
    }
  }
}

/// Why a node answered with less than was wanted.
package enum NodeShortfall: String, Equatable, Sendable, CaseIterable, Hashable {
  /// No other member announces the next block.
  case noHolder
  /// Fetching would have taken longer than computing.
  case cost
  /// It took longer than computing the rest, or the engine's patience was over.
  case outpaced
  /// Every member that has it failed, stalled, was busy or refused.
  case failed
  /// Too much of the pool is pinned, or too much is wanted at once.
  case overBudget
}

/// One block that a stream sends, pinned until its bytes are sent.
package struct ServedBlock: Equatable, Sendable {
  package let position: Int
  package let slot: SlotIndex
  package let generation: UInt32
  package let digests: [Digest128]
}

/// What a node knows of another.
package struct MemberState: Equatable, Sendable {
  package enum Standing: Equatable, Sendable {
    /// Nobody answers at its address.
    case away
    /// Its feed is open.
    case watched
    /// It did not answer a question in time; its feed has said nothing since.
    case doubted
    /// It may not share with us, for this reason.
    case refused(String)
  }

  package var standing = Standing.away
  package var node: Incarnation?
  /// Whether it must have the name that it is called by here.
  let isNamed: Bool
  /// What it calls itself, once that is known.
  package internal(set) var saidName: PeerName?
  package var pools: [PoolTerms] = []
  /// Answers that it is sending us.
  package var pullCount = 0
  /// Smoothed; nil before the first block.
  package var bytesPerSecond: Double?
  /// When that was measured last.
  var measuredAt = LocalInstant(nanoseconds: 0)
  /// From a question to the first byte of its answer, of the newest ones.
  private var firstBytes: [Duration] = []
  package var ends: [PullEnd: Int] = [:]
  private static let firstBytesKept = 5

  package init(isNamed: Bool = true) { self.isNamed = isNamed }

  mutating func noteFirstByte(after sample: Duration) {
    firstBytes.append(sample)
    if firstBytes.count > Self.firstBytesKept { firstBytes.removeFirst() }
  }

  /// From a question to the first byte of its answer, as it usually is: a pause of ours, or of its own, is only one
  /// of several. Nil before the first.
  package var firstByteAfter: Duration? {
    firstBytes.isEmpty ? nil : firstBytes.sorted()[(firstBytes.count - 1) / 2]
  }

  /// How fast it is, if that was measured lately: one that was slow once is asked again.
  func rate(_ limits: Limits, at now: LocalInstant) -> Double? {
    now - measuredAt < limits.rateKeptFor ? bytesPerSecond : nil
  }

  /// How long it may send no byte.
  func patience(_ limits: Limits) -> Duration {
    min(max(limits.streamStallMin, (firstByteAfter ?? .zero) * 3), limits.streamStallMax)
  }
}

/// Why a pool's memory cannot be made.
package struct PoolFailure: Error, Equatable, Sendable {
  package let reason: String
  package init(reason: String) { self.reason = reason }
}

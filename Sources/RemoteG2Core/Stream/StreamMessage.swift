/// What nodes say to each other over a stream: plain TCP, one answer at a time on a connection.
///
/// Who connects says `hello`, then asks for blocks again and again, or watches once. Who listens answers
/// `welcome` or `refused`, then the blocks that were asked for, or its feed.
public enum StreamMessage: Equatable, Sendable {
  /// Of this protocol; a node refuses another by name.
  public static let version: UInt32 = 2

  // MARK: From who connects

  /// The first frame. What follows it need not wait for the answer.
  case hello(StreamHello)
  /// The longest sealed prefix of these keys, block by block. Long lists come in pages.
  case ask(keys: [BlockKey], isLast: Bool)
  /// Everything that is sealed, and every change from now on.
  case watch

  // MARK: From who listens

  case welcome(StreamWelcome)
  /// Why nothing is shared over this connection, which ends.
  case refused(String)
  /// The bytes of the block at this position of the question follow its frame: each rank's, in rank order.
  case block(position: Int, digests: [Digest128])
  /// The answer is over.
  case end(StreamEnd)
  /// There is none: too many are under way, of all or of this prefix. These are being sent it, and announce what they have.
  case busy(others: [PeerName])
  /// Keys that are sealed. The pages of all of them come first.
  case snapshot([BlockKey], isLast: Bool)
  /// Numbered without a gap from the snapshot on.
  case changes(number: UInt64, [FeedChange])
  /// The pools that are there, whenever they change.
  case pools([PoolTerms])
  /// A sign of life.
  case beat
}

/// What all blocks of a pool have in common: a question is for one pool.
public struct PoolTerms: Equatable, Hashable, Sendable {
  public var fingerprint: Fingerprint
  /// Of one block on one rank.
  public var blockBytes: Int

  public init(fingerprint: Fingerprint, blockBytes: Int) {
    self.fingerprint = fingerprint
    self.blockBytes = blockBytes
  }

  public var rankCount: Int { Int(fingerprint.rankCount) }
  /// Of one block on all ranks.
  public var bytesOfAllRanks: Int { rankCount * blockBytes }

  /// The first thing that differs, or nil when the two may share.
  public func mismatch(with other: PoolTerms) -> Fingerprint.Mismatch? {
    if let mismatch = fingerprint.mismatch(with: other.fingerprint) { return mismatch }
    guard blockBytes != other.blockBytes else { return nil }
    return Fingerprint.Mismatch(
      field: "block bytes", ours: "\(blockBytes)", theirs: "\(other.blockBytes)")
  }
}

/// Who connects.
public struct StreamHello: Equatable, Sendable {
  public var version: UInt32
  public var node: Incarnation
  public var name: PeerName
  /// What its questions are about; nil for one that watches.
  public var terms: PoolTerms?

  public init(
    version: UInt32 = StreamMessage.version, node: Incarnation, name: PeerName,
    terms: PoolTerms?
  ) {
    self.version = version
    self.node = node
    self.name = name
    self.terms = terms
  }
}

/// Who listens.
public struct StreamWelcome: Equatable, Sendable {
  public var node: Incarnation
  public var name: PeerName

  public init(node: Incarnation, name: PeerName) {
    self.node = node
    self.name = name
  }
}

/// Why an answer is over.
public enum StreamEnd: UInt8, Equatable, Sendable, CaseIterable {
  /// Every block that was asked for has been sent.
  case served
  /// The next block is not here, or no longer.
  case lacking
}

/// One change of what a node holds.
public struct FeedChange: Equatable, Sendable {
  public var key: BlockKey
  /// Otherwise it was evicted.
  public var isSealed: Bool
  /// Of what was evicted: it had been used again.
  public var wasProtected: Bool

  public init(key: BlockKey, isSealed: Bool, wasProtected: Bool = false) {
    self.key = key
    self.isSealed = isSealed
    self.wasProtected = wasProtected
  }
}

public import LocalStore
public import RemoteG2Core

/// Memory laid out as equal blocks. Whoever made it keeps it mapped until every transport that was
/// given it has been shut down.
public struct BlockRegion: @unchecked Sendable {
  // @unchecked: an address and two counts; the memory behind it follows the transfer rules.
  public let base: UnsafeMutableRawPointer
  public let blockBytes: Int
  public let blockCount: Int

  public init(base: UnsafeMutableRawPointer, blockBytes: Int, blockCount: Int) {
    precondition(blockBytes > 0 && blockCount > 0, "a region has blocks")
    self.base = base
    self.blockBytes = blockBytes
    self.blockCount = blockCount
  }

  /// The first byte of a block. One outside the region traps.
  public func pointer(to block: Int) -> UnsafeMutableRawPointer {
    precondition(block >= 0 && block < blockCount, "block \(block) of \(blockCount)")
    return base + block * blockBytes
  }

  /// The `blockBytes` bytes of a block. One outside the region traps.
  public func bytes(of block: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: pointer(to: block), count: blockBytes)
  }

  /// The bytes of every block, in order.
  public var all: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: base, count: blockBytes * blockCount)
  }
}

/// How to reach a source's blocks.
public enum SourceDescription: Sendable {
  /// A peer's pool.
  case nixl(RankPool)
  /// A pool mapped into this process. `words` are compared round every copy (nil: a pool of a test that
  /// never changes), `link` is how this rank saves into it, `owner` keeps the mapping alive.
  case mapped(
    BlockRegion, words: GenerationWords? = nil, link: (any StagingLink)? = nil,
    owner: any Sendable)
}

/// What became of one transfer. A transfer ends with `landed`, or with `failed` and then `quiet`.
public enum TransferEvent: Equatable, Sendable {
  /// Every byte is in place, and nothing of it moves any more.
  case landed(TransferID, at: LocalInstant)
  /// It will not succeed. Its target may still be written until `quiet` is told.
  case failed(TransferID, TransferFailure, at: LocalInstant)
  /// Nothing will write its target again.
  case quiet(TransferID, at: LocalInstant)

  public var transfer: TransferID {
    switch self {
    case .landed(let id, _): id
    case .failed(let id, _, _): id
    case .quiet(let id, _): id
    }
  }
}

/// Moves blocks from sources into one local region. One thread uses it, and that thread may block
/// for milliseconds.
///
/// The caller's duties, in order:
/// 1. `attach` a source before posting from it. A restarted source is another source.
/// 2. Give each transfer a fresh id.
/// 3. `poll` until every transfer has told `landed`, or `failed` and `quiet`. There is no cancel:
///    an overdue transfer is simply polled on, and its target is nobody's until it is quiet.
/// 4. `fence` only a source that is dead, that was given up after minutes of silence, or that is the own
///    store and has ended its connection. The transport itself fences a source when that is safe: after a
///    failure, once none of its transfers is in progress.
/// 5. `shutDown` last. After it, nothing posted here will write again.
///
/// `TransportConformance` in KVTransferTesting checks all of it.
public protocol Transport: AnyObject {
  /// Makes a source readable. Attaching one again is allowed as long as its pool has not moved.
  ///
  /// - Throws: `rejected` for a description that this transport does not read, for blocks of another size
  ///   than the target's, and when no connection can be made; `unknownSource` for a source that is not there.
  func attach(_ source: SourceID, _ description: SourceDescription) throws(TransferFailure)

  /// Forgets a source that nothing is in flight from. Unknown sources are ignored.
  func detach(_ source: SourceID)

  /// Starts a read.
  ///
  /// - Throws: When nothing was started: then no event follows. A read that started and failed at
  ///   once is told by `poll`.
  func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure)

  /// Drives progress and appends what happened since the last poll.
  func poll(at now: LocalInstant, into events: inout [TransferEvent])

  /// Ends everything posted from the source, and forgets the source. The next poll tells `landed` of what was
  /// complete already, and `failed` and `quiet` of the rest.
  func fence(_ source: SourceID)

  /// Posted, and neither landed nor quiet.
  var inFlightCount: Int { get }

  /// Descriptors of which one becomes readable whenever there is something to poll for, or nil when
  /// only polling tells.
  var eventDescriptors: [Int32]? { get }

  /// Ends everything posted: nothing writes the target any more. Afterwards only `shutDown` may be called,
  /// and does nothing.
  func shutDown()
}

extension Transport {
  public var eventDescriptors: [Int32]? { nil }
}

internal import Glibc
public import LocalStore
public import RemoteG2Core

/// Copies from pools mapped into this process: one's own store. A copy is done when `post` returns, and
/// counts only if the slot's word was that of the block before and after it.
public final class MappedTransport: Transport {
  private struct Source {
    let region: BlockRegion
    let words: GenerationWords?
    let link: (any StagingLink)?
    let owner: any Sendable
  }

  private let target: BlockRegion
  private var sources: [SourceID: Source] = [:]
  private var ended: [(transfer: TransferID, failure: TransferFailure?)] = []

  public init(target: BlockRegion) { self.target = target }

  public func attach(
    _ source: SourceID, _ description: SourceDescription
  ) throws(TransferFailure) {
    guard case .mapped(let region, let words, let link, let owner) = description else {
      throw .rejected("a mapped transport reads mapped pools only")
    }
    guard region.blockBytes == target.blockBytes else {
      throw .rejected("blocks of \(region.blockBytes) bytes cannot land in \(target.blockBytes)")
    }
    sources[source] = Source(region: region, words: words, link: link, owner: owner)
  }

  public func detach(_ source: SourceID) { sources[source] = nil }

  public func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure) {
    guard let found = sources[source] else { throw .unknownSource }
    let region = found.region
    for move in moves {
      guard move.source.index >= 0, move.source.index < region.blockCount else {
        throw .rejected("\(move.source) is outside a pool of \(region.blockCount)")
      }
    }
    for move in moves {
      func copy() {
        memcpy(
          target.pointer(to: move.target.index), region.pointer(to: move.source.index),
          target.blockBytes)
      }
      guard let words = found.words else {
        copy()
        continue
      }
      guard words.read(move.source, move.generation, copy) else {
        ended.append((transfer, .changed(move.source)))
        return
      }
    }
    ended.append((transfer, nil))
  }

  public func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
    for (transfer, failure) in ended {
      guard let failure else {
        events.append(.landed(transfer, at: now))
        continue
      }
      // A copy that is over writes no more.
      events.append(.failed(transfer, failure, at: now))
      events.append(.quiet(transfer, at: now))
    }
    ended.removeAll(keepingCapacity: true)
  }

  /// How this rank saves into an attached pool.
  public func link(to source: SourceID) -> (any StagingLink)? { sources[source]?.link }

  /// The pool's store is dead: lets the mapping go. A copy is done when it is posted, so nothing of
  /// it is in flight.
  public func fence(_ source: SourceID) { sources[source] = nil }
  public var inFlightCount: Int { ended.count }
  public func shutDown() { sources = [:] }
}

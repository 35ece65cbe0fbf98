internal import Glibc
public import RemoteG2Core

/// Copies from pools mapped into this process: one's own store. A copy is done when `post` returns.
public final class MappedTransport: Transport {
  private let target: BlockRegion
  private var sources: [SourceID: (region: BlockRegion, owner: any Sendable)] = [:]
  private var landed: [TransferID] = []

  public init(target: BlockRegion) { self.target = target }

  public func attach(
    _ source: SourceID, _ description: SourceDescription
  ) throws(TransferFailure) {
    guard case .mapped(let region, let owner) = description else {
      throw .rejected("a mapped transport reads mapped pools only")
    }
    guard region.blockBytes == target.blockBytes else {
      throw .rejected("blocks of \(region.blockBytes) bytes cannot land in \(target.blockBytes)")
    }
    sources[source] = (region, owner)
  }

  public func detach(_ source: SourceID) { sources[source] = nil }

  public func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure) {
    guard let region = sources[source]?.region else { throw .unknownSource }
    for move in moves {
      guard move.source.index >= 0, move.source.index < region.blockCount else {
        throw .rejected("\(move.source) is outside a pool of \(region.blockCount)")
      }
    }
    for move in moves {
      memcpy(
        target.pointer(to: move.target.index), region.pointer(to: move.source.index),
        target.blockBytes)
    }
    landed.append(transfer)
  }

  public func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
    for transfer in landed { events.append(.landed(transfer, at: now)) }
    landed.removeAll(keepingCapacity: true)
  }

  /// Where an attached pool is, for copying into it.
  public func region(of source: SourceID) -> BlockRegion? { sources[source]?.region }

  /// The pool's store is dead: lets the mapping go. A copy is done when it is posted, so nothing of
  /// it is in flight.
  public func fence(_ source: SourceID) { sources[source] = nil }
  public var inFlightCount: Int { landed.count }
  public func shutDown() { sources = [:] }
}

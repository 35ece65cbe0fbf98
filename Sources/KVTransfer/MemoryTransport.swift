internal import Glibc
public import RemoteG2Core

/// The pools that ``MemoryTransport``s of one process read from, and which of them are alive.
public final class MemoryFabric {
  private var pools: [SourceID: BlockRegion] = [:]
  private var owners: [SourceID: any Sendable] = [:]
  private var stopped: Set<SourceID> = []

  public init() {}

  /// The source stops, as by SIGSTOP: what is in flight from it neither lands nor fails.
  public func stop(_ source: SourceID) { stopped.insert(source) }
  public func resume(_ source: SourceID) { stopped.remove(source) }
  func isStopped(_ source: SourceID) -> Bool { stopped.contains(source) }

  /// - Parameter owner: Keeps the pool where it is.
  public func publish(_ source: SourceID, _ region: BlockRegion, owner: any Sendable = 0) {
    pools[source] = region
    owners[source] = owner
  }
  /// The source dies: what is in flight from it fails.
  public func kill(_ source: SourceID) {
    pools[source] = nil
    stopped.remove(source)
  }
  func region(of source: SourceID) -> BlockRegion? { pools[source] }
}

/// A deterministic transport within one process: every poll moves at most `blocksPerPoll` blocks.
public final class MemoryTransport: Transport {
  private struct InFlight {
    let transfer: TransferID
    let source: SourceID
    let moves: [BlockMove]
    var moved = 0
  }

  private let target: BlockRegion
  private let fabric: MemoryFabric
  private let blocksPerPoll: Int
  private var attached: Set<SourceID> = []
  private var inFlight: [InFlight] = []
  private var ended: [TransferEvent] = []
  /// Told before every copy, with the block that is about to be written.
  public var onCopy: (TransferID, BlockIndex) -> Void = { _, _ in }

  public init(target: BlockRegion, fabric: MemoryFabric, blocksPerPoll: Int = 4) {
    precondition(blocksPerPoll > 0, "a poll that moves nothing never ends")
    self.target = target
    self.fabric = fabric
    self.blocksPerPoll = blocksPerPoll
  }

  public func attach(
    _ source: SourceID, _ description: SourceDescription
  ) throws(TransferFailure) {
    guard fabric.region(of: source) != nil else { throw .unknownSource }
    attached.insert(source)
  }

  public func detach(_ source: SourceID) { attached.remove(source) }

  public func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure) {
    guard attached.contains(source) else { throw .unknownSource }
    guard let region = fabric.region(of: source) else { throw .rejected("the source is dead") }
    guard moves.allSatisfy({ $0.source.index >= 0 && $0.source.index < region.blockCount }) else {
      throw .rejected("a slot lies outside the pool")
    }
    inFlight.append(InFlight(transfer: transfer, source: source, moves: moves))
  }

  public func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
    events.append(contentsOf: ended)
    ended = []
    var budget = blocksPerPoll
    var index = 0
    while index < inFlight.count {
      let current = inFlight[index]
      if fabric.isStopped(current.source) {
        index += 1
        continue
      }
      guard let region = fabric.region(of: current.source) else {
        events.append(.failed(current.transfer, .backend("the source died"), at: now))
        events.append(.quiet(current.transfer, at: now))
        inFlight.remove(at: index)
        continue
      }
      while budget > 0, inFlight[index].moved < current.moves.count {
        let move = current.moves[inFlight[index].moved]
        onCopy(current.transfer, move.target)
        memcpy(
          target.pointer(to: move.target.index), region.pointer(to: move.source.index),
          target.blockBytes)
        inFlight[index].moved += 1
        budget -= 1
      }
      guard inFlight[index].moved == current.moves.count else { return }
      events.append(.landed(current.transfer, at: now))
      inFlight.remove(at: index)
    }
  }

  /// Transfers that a fence ended in flight.
  public private(set) var fencedCount = 0

  public func fence(_ source: SourceID) {
    fencedCount += inFlight.count { $0.source == source }
    for current in inFlight where current.source == source {
      let now = LocalInstant(nanoseconds: 0)
      ended.append(.failed(current.transfer, .backend("fenced"), at: now))
      ended.append(.quiet(current.transfer, at: now))
    }
    inFlight.removeAll { $0.source == source }
    attached.remove(source)
  }

  public var inFlightCount: Int { inFlight.count }
  public func shutDown() { inFlight = [] }
}

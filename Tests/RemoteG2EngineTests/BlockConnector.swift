import Foundation
import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine

/// A connector of the narrowest kind: it copies blocks from a shelf, and on failure its workers name
/// block ids and nothing else.
final class BlockConnector: SchedulerConnector {
  private let shelf: [BlockKey: SlotIndex]
  private var bound: [RequestID: [BlockIndex]] = [:]
  private var slots: [RequestID: [SlotIndex]] = [:]
  private var seen: Set<RequestID> = []
  private var orders: [RankOrder] = []
  private var ending: [(request: RequestID, in: Int)] = []
  private var fetchNext: UInt64 = 1
  private let steps: Int
  /// Steps that `absorb` was called in.
  private(set) var absorbed = 0

  /// - Parameter steps: How long a load takes.
  init(shelf: [BlockKey: SlotIndex], steps: Int) {
    self.shelf = shelf
    self.steps = steps
  }

  let failureReporting = LoadFailureReporting.blocks

  func match(_ request: RequestView, computed: Int, at now: LocalInstant) -> RemoteMatch {
    guard seen.insert(request.id).inserted else { return .none }
    let found = request.keys[computed..<request.blocksMax].prefix { shelf[$0] != nil }
    slots[request.id] = found.compactMap { shelf[$0] }
    return found.isEmpty ? .none : .available(blocks: found.count)
  }

  func bind(_ request: RequestID, to blocks: [BlockIndex], at now: LocalInstant) {
    bound[request] = blocks
    let moves = zip(blocks, slots[request] ?? []).map { BlockMove(target: $0, source: $1) }
    let source = SourceID.peer(name: "shelf", Incarnation(high: 0, low: 0))
    orders.append(.load(FetchID(fetchNext), from: source, moves: moves, stall: nil))
    fetchNext += 1
    ending.append((request, steps))
  }

  func plan(at now: LocalInstant) -> [RankOrder] {
    defer { orders = [] }
    return orders
  }

  func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome {
    absorbed += 1
    var outcome = ConnectorOutcome()
    ending = ending.map { ($0.request, $0.in - 1) }
    outcome.ended = ending.filter { $0.in == 0 }.map(\.request)
    ending.removeAll { $0.in == 0 }
    return outcome
  }

  var isBusy: Bool { !ending.isEmpty }
}

/// Its worker half: copies at once, and names the blocks that it was told to fail.
final class BlockWorker: WorkerConnector {
  private let shelf: BlockRegion
  private let target: BlockRegion
  private let failing: Set<SlotIndex>
  private var errors: [BlockIndex] = []

  init(shelf: BlockRegion, target: BlockRegion, failing: Set<SlotIndex>) {
    self.shelf = shelf
    self.target = target
    self.failing = failing
  }

  func begin(_ orders: [RankOrder]) {
    for case .load(_, _, let moves, _) in orders {
      for move in moves {
        let place = target.pointer(to: move.target.index)
        if failing.contains(move.source) {
          memset(place, 0xEE, target.blockBytes)
          errors.append(move.target)
        } else {
          memcpy(place, shelf.pointer(to: move.source.index), target.blockBytes)
        }
      }
    }
  }

  func end(rank: Int, sequence: UInt64) -> RankReport {
    RankReport(rank: rank, sequence: sequence)
  }

  func takeLoadErrors() -> [BlockIndex] {
    defer { errors = [] }
    return errors
  }
}

internal import OSThreads
internal import RemoteG2Core
internal import Synchronization

/// Where the ranks of one process leave their parts of a sum for each other.
///
/// Two places for each rank, taken in turns: a rank that comes back for the next sum does not
/// overwrite what a slower one still reads, and it cannot come back twice before that one has left.
final class LocalReduction: @unchecked Sendable {
  // @unchecked: a place is written by its own rank before `arrived` says so, and read after.
  private struct Place {
    var base: UnsafeMutablePointer<Float>?
    var capacity = 0
  }

  /// Turns to look for the others before sleeping.
  private static let spinTurns = 2_000

  let rankCount: Int
  private let patience: Duration
  private let places: UnsafeMutablePointer<Place>
  /// Parts left since the start, over all ranks.
  private let arrived = Atomic<Int>(0)
  private let sums: Guarded<[UInt64]>
  private let bells: [Doorbell]

  init(rankCount: Int, patience: Duration) {
    self.rankCount = rankCount
    self.patience = patience
    places = .allocate(capacity: rankCount * 2)
    places.initialize(repeating: Place(), count: rankCount * 2)
    sums = Guarded([UInt64](repeating: 0, count: rankCount))
    bells = (0..<rankCount).map { _ in Doorbell() }
  }

  deinit {
    for index in 0..<rankCount * 2 { places[index].base?.deallocate() }
    places.deallocate()
  }

  var entries: [UInt64] { sums.withLock { $0 } }

  /// - Parameter ordinal: Which sum this is for the rank, from 0.
  func sum(
    _ values: UnsafeMutablePointer<Float>, count: Int, rank: Int, ordinal: Int
  ) {
    let turn = ordinal % 2 * rankCount
    sums.withLock { $0[rank] += 1 }
    if places[turn + rank].capacity < count {
      places[turn + rank].base?.deallocate()
      places[turn + rank].base = .allocate(capacity: count)
      places[turn + rank].capacity = count
    }
    places[turn + rank].base!.update(from: values, count: count)
    let all = (ordinal + 1) * rankCount
    if arrived.add(1, ordering: .acquiringAndReleasing).newValue == all {
      for (other, bell) in bells.enumerated() where other != rank { bell.ring() }
    } else {
      wait(rank, until: all)
    }
    let parts = (0..<rankCount).map { UnsafePointer(places[turn + $0].base!) }
    RankOrderSum.add(parts, count: count, into: values)
  }

  private func wait(_ rank: Int, until all: Int) {
    for _ in 0..<Self.spinTurns where arrived.load(ordering: .acquiring) >= all { return }
    let deadline = MonotonicClock.now() + patience
    while arrived.load(ordering: .acquiring) < all {
      precondition(
        MonotonicClock.now() < deadline, "rank \(rank) waited \(patience) for the parts of a sum")
      bells[rank].wait(until: deadline)
    }
  }
}

/// One rank's end of a ``LocalGroup``'s sums. Used by that rank's forward pass only.
public final class LocalTensorReducer: TensorReducer {
  private let reduction: LocalReduction
  public let rank: Int
  public var rankCount: Int { reduction.rankCount }
  private var ordinal = 0

  init(_ reduction: LocalReduction, rank: Int) {
    self.reduction = reduction
    self.rank = rank
  }

  public func sum(_ values: UnsafeMutablePointer<Float>, count: Int) {
    reduction.sum(values, count: count, rank: rank, ordinal: ordinal)
    ordinal += 1
  }
}

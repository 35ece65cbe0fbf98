internal import CLinuxShims
internal import Glibc
public import RemoteG2Core

/// Wakes a rank of the same group in another process of this machine. A ring is only a reason to look:
/// it may come early, late, more than once, or, when the other's queue is full, as one of many.
public final class RankBell: Bell, Sendable {
  private let group: UInt64
  private let rank: Int
  /// A datagram socket with an abstract name, which ends with its process.
  public let descriptor: Int32

  public init(group: UInt64, rank: Int) {
    self.group = group
    self.rank = rank
    descriptor = clinux_rank_socket(group, Int32(rank))
    precondition(descriptor >= 0, "no socket for a rank's bell: errno \(-descriptor)")
  }

  deinit { close(descriptor) }

  /// Rings one rank of the group. Never waits, and never fails: one that is gone hears nothing.
  public func ring(_ other: Int) { clinux_rank_ring(descriptor, group, Int32(other)) }

  /// Rings the leader.
  public func ring() { ring(0) }

  /// Forgets the rings so far.
  public func clear() { clinux_rank_clear(descriptor) }

  /// - Returns: Whether it was rung before `deadline`.
  public func wait(until deadline: LocalInstant) -> Bool {
    let left = deadline - MonotonicClock.now()
    guard clinux_rank_wait(descriptor, max(0, left.nanoseconds)) != 0 else { return false }
    clear()
    return true
  }
}

public import RemoteG2Core
internal import Synchronization

/// Whether a rank is waiting for the others, and since when. Written by the step thread, read by a
/// watchdog.
public final class GroupPulse: Sendable {
  private static let notWaiting: Int64 = .min
  private let since = Atomic<Int64>(GroupPulse.notWaiting)

  public init() {}

  func waits(since instant: LocalInstant) {
    since.store(instant.nanoseconds, ordering: .relaxed)
  }

  func goesOn() { since.store(Self.notWaiting, ordering: .relaxed) }

  /// Nil while it does not wait.
  public var waitingSince: LocalInstant? {
    let nanoseconds = since.load(ordering: .relaxed)
    return nanoseconds == Self.notWaiting ? nil : LocalInstant(nanoseconds: nanoseconds)
  }
}

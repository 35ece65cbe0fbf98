internal import CLinuxShims
internal import Glibc
public import RemoteG2Core
internal import Synchronization

/// A bell whose waiter also hears file descriptors.
///
/// One descriptor each; where none need be heard, ``Doorbell`` does the same for less.
public final class EventBell: Bell {
  public enum Heard: Equatable, Sendable { case ring, descriptor, nothing }

  private let event: Int32
  private let rung = Atomic<Bool>(false)

  public init() {
    event = clinux_event()
    precondition(event >= 0, "no event descriptor: errno \(-event); raise the limit (ulimit -n)")
  }

  deinit { close(event) }

  public func ring() {
    if !rung.exchange(true, ordering: .acquiringAndReleasing) { clinux_event_ring(event) }
  }

  /// Returns at the next ring, when one of `descriptors` is readable, or at `deadline`, whichever is
  /// first.
  ///
  /// - Parameter writable: Descriptors that are waited for until they can be written to.
  public func wait(
    until deadline: LocalInstant, hearing descriptors: [Int32] = [], writable: [Int32] = []
  ) -> Heard {
    while true {
      if rung.exchange(false, ordering: .acquiringAndReleasing) { return .ring }
      let left = deadline - MonotonicClock.now()
      let heard = clinux_event_wait_both(
        event, descriptors, Int32(descriptors.count), writable, Int32(writable.count),
        max(0, left.nanoseconds))
      // A ring that was heard by its flag alone leaves the event readable: look again.
      if heard & 2 != 0 {
        return rung.exchange(false, ordering: .acquiringAndReleasing) ? .ring : .descriptor
      }
      if heard == 0, MonotonicClock.now() >= deadline { return .nothing }
    }
  }
}

/// The epoll descriptors that exist now.
///
/// A library that waits for its sockets with epoll leaves no other trace of where it could be heard.
public enum EpollDescriptors {
  public static func open() -> Set<Int32> {
    var found = [Int32](repeating: -1, count: 256)
    let count = clinux_epoll_descriptors(&found, Int32(found.count))
    return Set(found.prefix(max(0, Int(count))))
  }
}

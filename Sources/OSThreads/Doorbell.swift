internal import Glibc
public import RemoteG2Core

/// Wakes one waiting thread. A ring before the wait is not lost; many rings wake it once.
public final class Doorbell: @unchecked Sendable {
  // @unchecked: `rung` is only touched under `mutex`; the pthread objects are at fixed addresses.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let condition: UnsafeMutablePointer<pthread_cond_t>
  private var rung = false

  public init() {
    mutex = .allocate(capacity: 1)
    condition = .allocate(capacity: 1)
    pthread_mutex_init(mutex, nil)
    var attributes = pthread_condattr_t()
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(condition, &attributes)
    pthread_condattr_destroy(&attributes)
  }

  deinit {
    pthread_cond_destroy(condition)
    pthread_mutex_destroy(mutex)
    condition.deallocate()
    mutex.deallocate()
  }

  public func ring() {
    pthread_mutex_lock(mutex)
    rung = true
    pthread_cond_signal(condition)
    pthread_mutex_unlock(mutex)
  }

  /// Returns at the next ring or after `timeout`, whichever is first.
  public func wait(atMost timeout: Duration) { wait(until: MonotonicClock.now() + timeout) }

  /// Returns at the next ring or at `deadline`, whichever is first.
  public func wait(until deadline: LocalInstant) {
    var time = timespec(
      tv_sec: Int(deadline.nanoseconds / 1_000_000_000),
      tv_nsec: Int(deadline.nanoseconds % 1_000_000_000))
    pthread_mutex_lock(mutex)
    while !rung {
      if pthread_cond_timedwait(condition, mutex, &time) != 0 { break }
    }
    rung = false
    pthread_mutex_unlock(mutex)
  }
}

internal import Glibc

/// A value behind a lock of the system's own, which the thread sanitizer can see: it is blind to the
/// standard library's `Mutex` and would report every access as a race.
public final class Guarded<Value>: @unchecked Sendable {
  // @unchecked: `value` is only touched under `mutex`, which is at a fixed address.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private var value: Value

  public init(_ value: sending Value) {
    self.value = value
    mutex = .allocate(capacity: 1)
    pthread_mutex_init(mutex, nil)
  }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  public func withLock<Result>(_ body: (inout Value) throws -> Result) rethrows -> Result {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body(&value)
  }
}

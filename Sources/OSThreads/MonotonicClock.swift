internal import Glibc
public import RemoteG2Core

/// The machine's monotonic clock, the same for all its processes. Read in shells only.
public enum MonotonicClock {
  public static func now() -> LocalInstant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return LocalInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }
}

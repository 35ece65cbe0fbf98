internal import CLinuxShims
internal import Glibc
internal import RemoteG2Core

/// A plain thread with its own stack: the step loop and the transfer pump, which must never share a
/// pool with tasks that wait.
public struct OSThread: @unchecked Sendable {
  // @unchecked: pthread_t is an opaque number that any thread may join once.
  private let thread: pthread_t

  /// SCHED_BATCH, which the headers keep to themselves.
  private static let batch: Int32 = 3

  private final class Body {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
  }

  /// - Parameters:
  ///   - name: At most 15 bytes are shown by the system.
  ///   - nice: Added to the thread's priority number; higher yields to others.
  ///   - letsWakersGoOn: Where all processors are busy, whoever wakes it keeps its processor.
  public static func start(
    _ name: String, nice: Int32 = 0, letsWakersGoOn: Bool = false,
    _ run: @escaping @Sendable () -> Void
  ) -> OSThread {
    let body = Body {
      clinux_thread_name(name)
      if letsWakersGoOn {
        // A refusal costs only what this was to save.
        var none = sched_param(sched_priority: 0)
        _ = sched_setscheduler(0, batch, &none)
      }
      if nice != 0 { _ = clinux_thread_nice(nice) }
      run()
    }
    var thread = pthread_t()
    var attributes = pthread_attr_t()
    pthread_attr_init(&attributes)
    pthread_attr_setstacksize(&attributes, 4 << 20)
    let status = pthread_create(
      &thread, &attributes,
      { context in
        Unmanaged<Body>.fromOpaque(context!).takeRetainedValue().run()
        return nil
      }, Unmanaged.passRetained(body).toOpaque())
    pthread_attr_destroy(&attributes)
    precondition(status == 0, "no thread for \(name): \(String(cString: strerror(status)))")
    return OSThread(thread: thread)
  }

  /// Sleeps the calling thread.
  public static func nap(_ duration: Duration) { clinux_nap(max(0, duration.nanoseconds)) }

  /// Nobody will join it: what it takes goes with it.
  public func detach() { pthread_detach(thread) }

  public func join() { pthread_join(thread, nil) }
}

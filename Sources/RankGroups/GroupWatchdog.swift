package import Collectives
internal import Glibc
internal import OSThreads
internal import RemoteG2Core
internal import Synchronization

/// Ends this process when its rank has waited too long for its group. A rank that died or hangs can
/// never be made good: what the group computed so far is unfinished on every rank. The worker's store
/// is a process of its own and serves on.
package final class GroupWatchdog: Sendable {
  /// `_exit` with this.
  package static let status: Int32 = 71
  private static let look: Duration = .milliseconds(100)

  private let silenceMax: Atomic<Int64>
  private let laterMax: Duration

  /// - Parameters:
  ///   - startMax: Until ``groupHasStarted()``, while ranks load their models.
  ///   - silenceMax: From then on.
  package init(
    _ pulse: GroupPulse, rank: String, startMax: Duration, silenceMax: Duration
  ) {
    self.silenceMax = Atomic(startMax.nanoseconds)
    laterMax = silenceMax
    _ = OSThread.start("watchdog-\(rank)") { [self] in
      var (since, waited): (LocalInstant?, Duration) = (nil, .zero)
      var looked = MonotonicClock.now()
      while true {
        OSThread.nap(Self.look)
        let now = MonotonicClock.now()
        // Only time in which this process ran counts: a pause of the whole group is nobody's fault. A
        // nap that is a little late is none.
        let ran = min(now - looked, Self.look * 3)
        looked = now
        let waiting = pulse.waitingSince
        waited = waiting == since ? waited + ran : .zero
        since = waiting
        let most = Duration.nanoseconds(self.silenceMax.load(ordering: .relaxed))
        guard since != nil, waited > most else { continue }
        let words =
          "rank \(rank): no word from its group for \(most): a rank has died or hangs. "
          + "This engine ends; its store serves on. Start the worker again\n"
        // A full pipe that nobody reads must not keep it from ending.
        var errors = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
        guard poll(&errors, 1, 100) == 1 else { _exit(Self.status) }
        _ = words.utf8CString.withUnsafeBytes { write(2, $0.baseAddress, $0.count - 1) }
        _exit(Self.status)
      }
    }
  }

  package func groupHasStarted() {
    silenceMax.store(laterMax.nanoseconds, ordering: .relaxed)
  }
}

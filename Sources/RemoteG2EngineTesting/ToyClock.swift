package import RemoteG2Core

/// A clock that a test moves.
package final class ToyClock {
  package var now = LocalInstant(nanoseconds: 1_000_000)

  package init() {}
}

/// How far a rank's clock is from the leader's, and how fast it leaves it.
package struct ClockError: Sendable {
  package var offset: Duration
  package var drift: Double

  package init(offset: Duration = .zero, drift: Double = 0) {
    self.offset = offset
    self.drift = drift
  }
}

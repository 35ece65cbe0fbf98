/// How long somebody who should be heard has not been, without the time in which we were stopped ourselves.
///
/// A clock that is looked at late tells that we were late, not since when: so a silence that would be over
/// at a look that came very late is given its whole time once more. Once: a machine that is late again and
/// again must not wait for ever.
package struct Silence: Equatable, Sendable {
  package private(set) var since: LocalInstant
  private var isForgiven = false

  package init(since: LocalInstant) { self.since = since }

  /// - Parameters:
  ///   - most: How long it may last.
  ///   - lateness: How much later this is than it was meant to be.
  package mutating func isOver(
    after most: Duration, lateness: Duration, _ limits: Limits, at now: LocalInstant
  ) -> Bool {
    since = min(since + max(.zero, lateness), now)
    // As whoever sleeps until then has computed it: a span may be no whole number of the clock's units.
    guard now >= since + most else { return false }
    guard lateness >= limits.pauseMin, !isForgiven else { return true }
    isForgiven = true
    since = now
    return false
  }
}

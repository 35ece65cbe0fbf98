/// How fast an answer's first block comes, before it is whole.
///
/// A connection starts slowly, and the farther the member is the longer that takes: with each round trip it is sent twice
/// as much. So what comes is looked at in spans, each as long as all before it, of which none is shorter than twice what
/// the first byte took. When one brings hardly more than its share, the connection is as fast as it will be. When it
/// brings much less, something was stopped meanwhile, perhaps we ourselves: that says nothing.
package struct PullPace: Sendable {
  private let shortest: Duration
  private var beganAt: LocalInstant?
  private var last: (at: LocalInstant, bytes: Int)?
  private var lastRate: Double?
  private var looksAt: LocalInstant?

  package init(_ limits: Limits) { shortest = limits.paceSpanMin }

  /// So many bytes have come by now.
  ///
  /// - Parameter firstByteAfter: From the question on: a round trip, at the least.
  /// - Returns: Bytes a second, when it has become known.
  package mutating func heard(
    _ bytes: Int, firstByteAfter: Duration, at now: LocalInstant
  ) -> Double? {
    guard let beganAt, let last, let looksAt else {
      (beganAt, last) = (now, (now, bytes))
      looksAt = now + max(shortest, firstByteAfter * 2)
      return nil
    }
    guard now >= looksAt, now > last.at else { return nil }
    let rate = Double(bytes - last.bytes) / (now - last.at).inSeconds
    let isSteady = lastRate.map { rate < $0 * 1.5 && $0 < rate * 1.5 } ?? false
    self.last = (now, bytes)
    self.looksAt = now + (now - beganAt)
    lastRate = rate
    return isSteady && rate > 0 ? rate : nil
  }
}

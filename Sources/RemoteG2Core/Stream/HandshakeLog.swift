/// What became of connections on which two nodes were to show their certificates.
package struct HandshakeLog: Sendable {
  package private(set) var refusals: [HandshakeRefusal.Kind: Int] = [:]
  /// When the node's own certificate is valid no more, in seconds since 1970; nil: it has none.
  package var certificateEnd: Int64?
  private var toldAt: [HandshakeRefusal.Kind: LocalInstant] = [:]

  package init() {}

  /// - Returns: Whether an operator should be told: strangers may try as often as they like.
  package mutating func note(
    _ refusal: HandshakeRefusal, limits: Limits, at now: LocalInstant
  ) -> Bool {
    refusals[refusal.kind, default: 0] += 1
    if let last = toldAt[refusal.kind], now - last < limits.refusalTellPause { return false }
    toldAt[refusal.kind] = now
    return true
  }
}

/// What a connector remembers of each request between steps: its open fetch, whom it has asked, how long it
/// waits for a handshake, and why it got less than it could have.
package struct RequestTable {
  private struct Entry {
    var active: FetchID?
    var hasTriedLocal = false
    var hasTriedPeer = false
    /// Until when an unfinished handshake is waited for.
    var notReadyUntil: LocalInstant?
    var reasons: [FallbackReason] = []
  }

  private var entries: [RequestID: Entry] = [:]
  /// Requests that wait for a peer's handshake, and until when.
  private var waiting: [RequestID: LocalInstant] = [:]
  /// Fetches whose request left while they were open.
  private var abandoned: [FetchID] = []
  /// By reason: how often a request got less than it could have. Each is in that request's reasons too.
  package private(set) var fallbacks: [FallbackReason: Int] = [:]

  package init() {}

  // MARK: Asking

  package func active(of request: RequestID) -> FetchID? { entries[request]?.active }
  package func hasTriedLocal(_ request: RequestID) -> Bool {
    entries[request]?.hasTriedLocal ?? false
  }
  package func hasTriedPeer(_ request: RequestID) -> Bool {
    entries[request]?.hasTriedPeer ?? false
  }
  package mutating func triesLocal(_ request: RequestID) {
    entries[request, default: Entry()].hasTriedLocal = true
  }
  package mutating func triesPeer(_ request: RequestID) {
    entries[request, default: Entry()].hasTriedPeer = true
  }

  package mutating func began(_ fetch: FetchID, for request: RequestID) {
    entries[request, default: Entry()].active = fetch
  }

  package mutating func settled(_ fetch: FetchID, for request: RequestID) {
    if entries[request]?.active == fetch { entries[request]?.active = nil }
  }

  // MARK: Waiting for a handshake

  /// A request is asked about again: whether it goes on waiting is decided anew.
  package mutating func stopsWaiting(_ request: RequestID) { waiting[request] = nil }

  /// - Parameter limit: Counted from the first time.
  /// - Returns: Whether the request may still wait.
  package mutating func waits(
    _ request: RequestID, atMost limit: Duration, at now: LocalInstant
  ) -> Bool {
    let until = entries[request]?.notReadyUntil ?? now + limit
    guard now < until else { return false }
    entries[request, default: Entry()].notReadyUntil = until
    waiting[request] = until
    return true
  }

  package var nextDeadline: LocalInstant? { waiting.isEmpty ? nil : waiting.values.min() }

  /// The requests whose wait should have ended.
  package func overdue(at now: LocalInstant) -> [RequestID] {
    waiting.filter { $0.value <= now }.keys.sorted()
  }

  // MARK: Reasons

  /// Counts a reason, and remembers it for the request's result: the sums add up because nothing else does
  /// either. A request that has left while its fetch ended has had its result: nothing is counted for it.
  package mutating func note(_ reason: FallbackReason, for request: RequestID) {
    guard entries[request] != nil else { return }
    fallbacks[reason, default: 0] += 1
    entries[request]?.reasons.append(reason)
  }

  package func reasons(of request: RequestID) -> [FallbackReason] {
    entries[request]?.reasons ?? []
  }

  // MARK: The end

  /// The request has left. Its fetch, if one is still open, is to be cancelled.
  package mutating func finish(_ request: RequestID) {
    waiting[request] = nil
    if let active = entries.removeValue(forKey: request)?.active { abandoned.append(active) }
  }

  package var hasAbandoned: Bool { !abandoned.isEmpty }

  package mutating func takeAbandoned() -> [FetchID] {
    guard !abandoned.isEmpty else { return [] }
    defer { abandoned = [] }
    return abandoned
  }
}

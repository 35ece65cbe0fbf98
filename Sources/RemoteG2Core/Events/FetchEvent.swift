/// One fact about a fetch or a block, as a value. Never carries an address or a descriptor.
public struct FetchEvent: Equatable, Sendable {
  public enum Kind: String, Sendable, CaseIterable {
    case planned, resolved, truncated, bound, started, transferred, salvaged, confirmed, published
    case fallback, failed, aborted, released, quarantined, quieted, expired
  }
  public enum Outcome: String, Sendable {
    case localRecompute = "local_recompute"
    case failClosed = "fail_closed"
  }

  public var kind: Kind
  public var at: LocalInstant
  public var request: RequestID
  public var fetch: FetchID?
  public var lease: UInt64?
  public var peer: String?
  public var blocks: Int?
  public var tokens: Int?
  public var bytes: Int?
  public var reason: FallbackReason?
  public var outcome: Outcome?

  public init(
    _ kind: Kind, at: LocalInstant, request: RequestID, fetch: FetchID? = nil,
    lease: UInt64? = nil, peer: String? = nil, blocks: Int? = nil, tokens: Int? = nil,
    bytes: Int? = nil, reason: FallbackReason? = nil, outcome: Outcome? = nil
  ) {
    self.kind = kind
    self.at = at
    self.request = request
    self.fetch = fetch
    self.lease = lease
    self.peer = peer
    self.blocks = blocks
    self.tokens = tokens
    self.bytes = bytes
    self.reason = reason
    self.outcome = outcome
  }
}

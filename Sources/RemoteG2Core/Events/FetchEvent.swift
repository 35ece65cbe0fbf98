/// One fact about a fetch or a block, as a value. Never carries an address or a descriptor.
public struct FetchEvent: Equatable, Sendable {
  /// What happened, with the blocks that it happened to.
  public enum Fact: Equatable, Sendable {
    /// So many blocks are asked of a source.
    case planned(blocks: Int)
    /// It grants all of them.
    case resolved(blocks: Int)
    /// It grants the first of them.
    case truncated(blocks: Int)
    /// The engine gave blocks for them to land in.
    case bound(blocks: Int, tokens: Int)
    /// The ranks are told to read.
    case started(blocks: Int)
    /// All of them are valid.
    case transferred(blocks: Int)
    /// The first of them are valid though the fetch went wrong.
    case salvaged(blocks: Int)
    /// The source said what it still holds.
    case confirmed
    /// They have names: other requests find them.
    case published(blocks: Int, tokens: Int)
    /// Less is loaded than could have been, and so many blocks are not valid; the request computes them.
    case fallback(FallbackReason, blocks: Int)
    /// The same where the policy is to end the request.
    case failed(FallbackReason, blocks: Int)
    /// The request does not want it any more.
    case aborted
    /// The lease is given back.
    case released
    /// They may still be written, and are nobody's until they are quiet.
    case quarantined(blocks: Int)
    /// Nothing will write them any more.
    case quieted(blocks: Int)
    /// The source has ended the lease.
    case expired
  }

  /// The names of the facts.
  public enum Kind: String, Sendable, CaseIterable {
    case planned, resolved, truncated, bound, started, transferred, salvaged, confirmed, published
    case fallback, failed, aborted, released, quarantined, quieted, expired
  }

  public var fact: Fact
  public var at: LocalInstant
  public var request: RequestID
  /// Nil where no fetch was begun.
  public var fetch: FetchID?
  /// The serial of its lease, once it has one.
  public var lease: UInt64?
  /// Whom the fetch reads from, or would have.
  public var source: SourceName

  public init(
    _ fact: Fact, at: LocalInstant, request: RequestID, fetch: FetchID? = nil,
    lease: UInt64? = nil, source: SourceName
  ) {
    self.fact = fact
    self.at = at
    self.request = request
    self.fetch = fetch
    self.lease = lease
    self.source = source
  }

  public var kind: Kind {
    switch fact {
    case .planned: .planned
    case .resolved: .resolved
    case .truncated: .truncated
    case .bound: .bound
    case .started: .started
    case .transferred: .transferred
    case .salvaged: .salvaged
    case .confirmed: .confirmed
    case .published: .published
    case .fallback: .fallback
    case .failed: .failed
    case .aborted: .aborted
    case .released: .released
    case .quarantined: .quarantined
    case .quieted: .quieted
    case .expired: .expired
    }
  }

  /// How many blocks it happened to; nil where it is no matter of blocks.
  public var blocks: Int? {
    switch fact {
    case .planned(let blocks), .resolved(let blocks), .truncated(let blocks), .bound(let blocks, _),
      .started(let blocks), .transferred(let blocks), .salvaged(let blocks),
      .published(let blocks, _), .fallback(_, let blocks), .failed(_, let blocks),
      .quarantined(let blocks), .quieted(let blocks):
      blocks
    case .confirmed, .aborted, .released, .expired: nil
    }
  }

  /// Why less was loaded than could have been.
  public var reason: FallbackReason? {
    switch fact {
    case .fallback(let reason, _), .failed(let reason, _): reason
    default: nil
    }
  }

  /// What comes of it for the request, as the field's systems call it.
  public var outcome: String? {
    switch fact {
    case .fallback: "local_recompute"
    case .failed: "fail_closed"
    default: nil
    }
  }
}

public import RemoteG2Core

/// A trace, dealt to nodes that share and to others for comparison.
public struct Replay: Sendable {
  /// Which node a request comes to.
  public enum Route: String, CaseIterable, Sendable {
    /// To one after another.
    case roundRobin = "round-robin"
    /// To where most of its prompt went before, where that is at least half of it; otherwise to the next one.
    case sticky
  }

  /// What a node keeps of what is used again.
  public enum Policy: String, CaseIterable, Sendable {
    /// As nodes ship: what comes back after it was evicted shifts probation's share.
    case adaptive
    /// That share stays as it is at first.
    case fixed
    /// The same, and nothing that was evicted is remembered.
    case forgetful

    var limits: Limits {
      Limits { limits in
        guard self != .adaptive else { return }
        limits.probationShareMin = limits.probationShare
        limits.probationShareMax = limits.probationShare
        if self == .forgetful { limits.evictionsRememberedMax = 0 }
      }
    }
  }

  /// What became of a trace's prompt blocks.
  public struct Outcome: Equatable, Sendable {
    /// Blocks that led a prompt and need not be computed.
    public internal(set) var hits = 0
    /// Blocks that a node has pulled from another.
    public internal(set) var moved = 0
  }

  public let requests: [TraceRequest]
  public let promptBlocks: Int

  public init(_ requests: [TraceRequest]) {
    self.requests = requests
    promptBlocks = requests.reduce(0) { $0 + $1.keys.count }
  }

  public func share(_ hits: Int) -> Double {
    promptBlocks > 0 ? Double(hits) / Double(promptBlocks) : 0
  }

  /// - Parameters:
  ///   - blocks: Of each node's pool.
  ///   - areMembers: Whether a node pulls what others hold.
  ///   - announced: Is given in the end, for each node, what it knows others to hold, by member.
  public func run(
    nodes count: Int, blocks: Int, areMembers: Bool, route: Route = .roundRobin,
    policy: Policy = .adaptive,
    announced: ([[Set<BlockKey>]]) -> Void = { _ in }
  ) -> Outcome {
    var fleet = ReplayFleet(
      count: count, blocks: blocks, areMembers: areMembers, limits: policy.limits)
    var (outcome, router) = (Outcome(), Router(route, nodes: count))
    for request in requests {
      let place = router.place(for: request.keys)
      let now = LocalInstant(nanoseconds: request.milliseconds * 1_000_000)
      outcome.hits += fleet.play(request.keys, at: place, now: now)
    }
    outcome.moved = fleet.moved
    announced(fleet.nodes.map(\.core.keysOfMembers))
    return outcome
  }

  /// One pool of so many blocks, of which the one used longest ago makes room.
  public func leastRecentlyUsed(blocks: Int) -> Outcome {
    var (outcome, pool) = (Outcome(), LRUPool(capacity: blocks))
    for request in requests { outcome.hits += pool.play(request.keys) }
    return outcome
  }

  /// One pool that never evicts.
  public func unlimited() -> Outcome {
    var (outcome, seen) = (Outcome(), Set<BlockKey>())
    for request in requests {
      outcome.hits += request.keys.prefix { seen.contains($0) }.count
      seen.formUnion(request.keys)
    }
    return outcome
  }
}

private struct Router {
  private let route: Replay.Route
  private let count: Int
  private var next = 0
  /// Where a block went last.
  private var places: [BlockKey: Int] = [:]

  init(_ route: Replay.Route, nodes: Int) {
    self.route = route
    count = nodes
  }

  mutating func place(for keys: [BlockKey]) -> Int {
    let known = keys.prefix { places[$0] != nil }
    var place = next
    if route == .sticky, known.count * 2 >= keys.count, let last = known.last {
      place = places[last] ?? next
    } else {
      next = (next + 1) % count
    }
    if route == .sticky { for key in keys { places[key] = place } }
    return place
  }
}

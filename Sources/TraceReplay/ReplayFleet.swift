internal import RemoteG2Core

/// Nodes that decide as they do on hosts, without sockets and without bytes: what one orders happens at once.
struct ReplayFleet {
  private(set) var nodes: [ReplayNode]
  private let areMembers: Bool
  /// Blocks that a node has pulled from another.
  private(set) var moved = 0

  /// - Parameter areMembers: Whether they know of one another.
  init(count: Int, blocks: Int, areMembers: Bool, limits: Limits) {
    self.areMembers = areMembers
    let names = (0..<count).map { ReplayNode.name($0) }
    nodes = (0..<count).map { number in
      let others = areMembers ? names.filter { $0 != names[number] } : []
      return ReplayNode(number, of: count, blocks: blocks, members: others, limits: limits)
    }
    guard areMembers else { return }
    for place in nodes.indices {
      for (other, node) in nodes.enumerated() where other != place {
        let refusal = nodes[place].core.watched(
          node.name, as: StreamWelcome(node: node.incarnation, name: nodes[other].name),
          after: .zero)
        precondition(refusal == nil, "\(nodes[place].name) refuses \(node.name)")
      }
    }
    for place in nodes.indices { tell(place) }
  }

  /// The blocks that lead a prompt and need not be computed when it comes to a node; the rest is, and is saved there.
  mutating func play(_ keys: [BlockKey], at place: Int, now: LocalInstant) -> Int {
    let (lease, actions) = nodes[place].want(keys, at: now)
    let found = carryOut(actions, at: place, now: now)
    nodes[place].release(lease, at: now)
    nodes[place].save(keys[found...], after: found > 0 ? keys[found - 1] : nil, at: now)
    tell(place)
    return found
  }

  /// - Returns: How many blocks the engine was found.
  private mutating func carryOut(
    _ actions: [NodeAction], at place: Int, now: LocalInstant
  ) -> Int {
    var (open, next, found) = (actions, 0, 0)
    while next < open.count {
      switch open[next] {
      case .local(.send(_, .found(_, let blocks, _)), _): found += blocks.count
      case .pull(let stream, let member, _, let terms, let keys, _):
        open += pull(stream, from: member, terms, keys, to: place, now: now)
      case .cancel(let stream):
        // It may have ended as it was cancelled.
        open += nodes[place].core.ended(stream, .unneeded, at: now)
      case .local, .makePool, .feedChanged, .startAgent, .endAgent: break
      }
      next += 1
    }
    return found
  }

  private mutating func pull(
    _ stream: StreamID, from member: PeerName, _ terms: PoolTerms, _ keys: [BlockKey],
    to place: Int, now: LocalInstant
  ) -> [NodeAction] {
    guard let source = nodes.firstIndex(where: { $0.name == member }),
      let pool = nodes[source].core.poolNumber(of: terms), let last = keys.last,
      case .begins = nodes[source].core.serves(last, to: nodes[place].name, at: now)
    else { return nodes[place].core.ended(stream, .busy, at: now) }
    var (position, end, actions) = (0, PullEnd.served, [NodeAction]())
    while position < keys.count, end == .served {
      let window = nodes[source].core.serve(keys, from: position, in: pool)
      if window.isEmpty { end = .lacking }
      var sent = 0
      for block in window {
        switch nodes[place].core.arriving(stream, position: block.position) {
        case .write:
          moved += 1
          actions += nodes[place].core.arrived(stream, digests: block.digests, at: now)
        case .skip: actions += nodes[place].core.arrived(stream, digests: nil, at: now)
        case .stop: end = .unneeded
        case .invalid: preconditionFailure("\(member) sends what was not asked for")
        }
        if end != .served { break }
        sent += 1
      }
      nodes[source].core.sent(window, count: sent, in: pool)
      position += sent
    }
    nodes[source].core.served(last, to: nodes[place].name)
    return actions + nodes[place].core.ended(stream, end, at: now)
  }

  /// All others hear what a node has to say.
  private mutating func tell(_ place: Int) {
    guard areMembers else { return }
    for other in nodes.indices where other != place {
      var heard = nodes[other].heard[place]
      while case .say(let message) = nodes[place].core.next(for: &heard) {
        let isHeard = nodes[other].core.heard(message, from: nodes[place].name)
        precondition(isHeard, "\(nodes[other].name) cannot make sense of a feed")
      }
      nodes[other].heard[place] = heard
    }
  }
}

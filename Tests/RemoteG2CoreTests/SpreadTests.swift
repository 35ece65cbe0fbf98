import RemoteG2Core
import Testing

/// A hot prefix among nodes that decide as they ship; what is sent moves block by block.
@Suite struct `A hot prefix` {
  private struct Pull {
    let target: Int
    let source: Int
    let stream: StreamID
    let keys: [BlockKey]
    var position = 0
    var hasBegun = false
  }

  private struct Fleet {
    static let keys = (0..<24).map { BlockKey(high: UInt64($0), low: 77) }
    let names: [PeerName]
    var nodes: [`A node`.Bench]
    private var heard: [[FeedWatcher]]
    private var pulls: [Pull] = []
    private var seen: [Int]
    /// Blocks that each has sent, and how often somebody was busy.
    var sent: [Int]
    var busy = 0

    init(_ count: Int) {
      let all = (0..<count).map { PeerName("n\($0)") }
      names = all
      nodes = all.map { name in
        `A node`.Bench(named: name, members: all.filter { $0 != name })
      }
      heard = Array(repeating: Array(repeating: FeedWatcher(), count: count), count: count)
      seen = Array(repeating: 0, count: count)
      sent = Array(repeating: 0, count: count)
      fillFirst()
      for (place, node) in nodes.enumerated() {
        for other in nodes.indices where other != place {
          _ = nodes[other].core.watched(
            all[place], as: StreamWelcome(node: node.core.node, name: all[place]), after: .zero)
        }
      }
    }

    /// The first node has it all.
    private mutating func fillFirst() {
      nodes[0].announce(names[1], Self.keys)
      nodes[0].want(Self.keys, at: `A node`.at(0))
      let stream = nodes[0].pulls[0].stream
      for place in Self.keys.indices { nodes[0].land(stream, place, at: `A node`.at(0)) }
      nodes[0].take(nodes[0].core.ended(stream, .served, at: `A node`.at(0)))
      nodes[0].take(
        nodes[0].core.received(.release(lease: 1), from: nodes[0].leader, at: `A node`.at(0)))
      nodes[0].core.lost(names[1], because: nil)
      nodes[0].pulls = []
      nodes[0].said = []
    }

    /// Everybody hears what everybody has to say.
    mutating func tell() {
      for place in nodes.indices {
        for other in nodes.indices where other != place {
          while case .say(let message) = nodes[place].core.next(for: &heard[place][other]) {
            #expect(nodes[other].core.heard(message, from: names[place]) == true)
          }
        }
      }
    }

    /// One block of every answer that is under way.
    mutating func turn(at now: LocalInstant) {
      for place in nodes.indices {
        for pull in nodes[place].pulls[seen[place]...] {
          let source = names.firstIndex(of: pull.member)!
          pulls.append(Pull(target: place, source: source, stream: pull.stream, keys: pull.keys))
        }
        seen[place] = nodes[place].pulls.count
        nodes[place].take(nodes[place].core.timePassed(at: now))
      }
      pulls = pulls.compactMap { advance($0, at: now) }
      tell()
    }

    private mutating func advance(_ pull: Pull, at now: LocalInstant) -> Pull? {
      var pull = pull
      let (last, pool) = (pull.keys[pull.keys.count - 1], PoolNumber(1))
      func end(_ how: PullEnd, _ others: [PeerName] = []) -> Pull? {
        nodes[pull.target].take(
          nodes[pull.target].core.ended(pull.stream, how, others: others, at: now))
        return nil
      }
      if !pull.hasBegun {
        if case .busy(let others) = nodes[pull.source].core.serves(
          last, to: names[pull.target], at: now)
        {
          busy += 1
          return end(.busy, others)
        }
        pull.hasBegun = true
      }
      let window = nodes[pull.source].core.serve(pull.keys, from: pull.position, in: pool)
      guard let block = window.first else {
        nodes[pull.source].core.served(last, to: names[pull.target])
        return end(pull.position == pull.keys.count ? .served : .lacking)
      }
      switch nodes[pull.target].core.arriving(pull.stream, position: block.position) {
      case .write, .skip:
        nodes[pull.target].take(
          nodes[pull.target].core.arrived(pull.stream, digests: block.digests, at: now))
        sent[pull.source] += 1
        pull.position += 1
        nodes[pull.source].core.sent(window, count: 1, in: pool)
        return pull
      case .stop, .invalid:
        nodes[pull.source].core.sent(window, count: 0, in: pool)
        nodes[pull.source].core.served(last, to: names[pull.target])
        return end(.unneeded)
      }
    }

    var isPulling: Bool { !pulls.isEmpty }

    func found(_ place: Int) -> Int? {
      for case .found(_, let blocks, _) in nodes[place].said { return blocks.count }
      return nil
    }
  }

  @Test func `that twelve nodes want at once leaves its first holder a few times only`() {
    var fleet = Fleet(13)
    let keys = Fleet.keys
    fleet.tell()
    for place in 1..<13 { fleet.nodes[place].want(keys, pace: .seconds(5), at: `A node`.at(0)) }
    var now = 0
    while fleet.isPulling || (1..<13).contains(where: { fleet.found($0) == nil }), now < 1000 {
      fleet.turn(at: `A node`.at(now))
      now += 2
    }
    let found = (1..<13).map { fleet.found($0) }
    #expect(found == Array(repeating: keys.count, count: 12), "after \(now) ms: \(fleet.sent)")
    #expect(fleet.busy > 0 && fleet.sent.reduce(0, +) == 12 * keys.count)
    // Four of it at once; the others have it from those four, and from one another.
    #expect(fleet.sent[0] <= 5 * keys.count, "\(fleet.sent)")
    #expect(now < 200, "it took \(now) ms, and two a block for the first")
    #expect(fleet.nodes.allSatisfy { $0.core.report.serving == 0 && $0.core.report.waiting == 0 })
  }
}

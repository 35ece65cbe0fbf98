import RemoteG2Core
import Testing
import TraceReplay

/// Traces through nodes that decide as they do on hosts.
@Suite struct `A replay` {
  static func trace(_ prompts: [[UInt64]]) -> Replay {
    Replay(
      prompts.enumerated().map {
        TraceRequest(milliseconds: Int64($0.offset) * 50, ids: $0.element)
      })
  }

  /// Conversations that grow: each prompt is an earlier one of its conversation and some blocks more.
  static func conversations(_ count: Int, turns: Int, seed: UInt64) -> Replay {
    var (chance, next, open) = (seed, UInt64(1_000), [[UInt64]](repeating: [1], count: count))
    func draw(_ below: Int) -> Int {
      chance = chance &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(chance >> 33) % below
    }
    var prompts: [[UInt64]] = []
    for _ in 0..<turns {
      let place = draw(count)
      for _ in 0..<(1 + draw(6)) {
        open[place].append(next)
        next += 1
      }
      prompts.append(open[place])
    }
    return trace(prompts)
  }

  @Test func `counts the blocks that lead a prompt, on one node`() {
    let replay = Self.trace([[1, 2, 3], [1, 2, 4], [2, 3], [1, 2, 3, 5]])
    // 0, then 1 and 2; a prompt that begins with 2 in earnest has another number for it, but here it is found.
    let outcome = replay.run(nodes: 1, blocks: 16, areMembers: false)
    #expect(outcome.hits == 0 + 2 + 2 + 3 && outcome.moved == 0)
    #expect(replay.unlimited().hits == 7 && replay.leastRecentlyUsed(blocks: 16).hits == 7)
    #expect(replay.promptBlocks == 12 && replay.share(6) == 0.5)
  }

  @Test func `what one node has computed all others pull, and none alone`() {
    let replay = Self.trace(Array(repeating: [1, 2, 3], count: 8))
    let fleet = replay.run(nodes: 4, blocks: 16, areMembers: true)
    // The first computes it, three pull it, and then each has it.
    #expect(fleet.hits == 7 * 3 && fleet.moved == 3 * 3)
    let alone = replay.run(nodes: 4, blocks: 16, areMembers: false)
    #expect(alone.hits == 4 * 3 && alone.moved == 0)
    // Where all of it went before it goes again.
    let sticky = replay.run(nodes: 4, blocks: 16, areMembers: false, route: .sticky)
    #expect(sticky.hits == 7 * 3)
  }

  @Test func `a prefix that lies on two nodes is put together`() {
    // Node 0 computes 1 and 2; node 1 pulls them and computes 3; node 2 takes all from node 1.
    let replay = Self.trace([[1, 2], [1, 2, 3], [1, 2, 3, 4]])
    let fleet = replay.run(nodes: 3, blocks: 16, areMembers: true)
    #expect(fleet.hits == 0 + 2 + 3 && fleet.moved == 2 + 3)
  }

  @Test func `evicts what nobody uses, and hits no more than a pool that never does`() {
    let replay = Self.conversations(40, turns: 400, seed: 7)
    let most = replay.unlimited().hits
    var last = 0
    for blocks in [64, 256, 1024, 8192] {
      let one = replay.run(nodes: 1, blocks: blocks, areMembers: false)
      #expect(one.hits >= last && one.hits <= most)
      last = one.hits
    }
    #expect(last == most, "everything fits")
    #expect(replay.run(nodes: 1, blocks: 64, areMembers: false).hits < most, "nothing was evicted")
  }

  @Test(arguments: [2, 5, 8])
  func `nodes that share hit more than each for itself, and no more than there is`(nodes: Int) {
    let replay = Self.conversations(60, turns: 500, seed: UInt64(nodes))
    let fleet = replay.run(nodes: nodes, blocks: 400, areMembers: true)
    let alone = replay.run(nodes: nodes, blocks: 400, areMembers: false)
    #expect(fleet.hits > alone.hits && fleet.hits <= replay.unlimited().hits && fleet.moved > 0)
    // The same trace, the same decisions.
    #expect(fleet == replay.run(nodes: nodes, blocks: 400, areMembers: true))
  }

  @Test func `what comes back moves the share of what is new only where that is wanted`() {
    let replay = Self.conversations(60, turns: 600, seed: 3)
    let hits = Replay.Policy.allCases.map {
      replay.run(nodes: 1, blocks: 120, areMembers: false, policy: $0).hits
    }
    #expect(Set(hits).count == 3, "each decides otherwise: \(hits)")
    #expect(hits.allSatisfy { $0 > 0 && $0 < replay.unlimited().hits })
  }

  @Test func `tells what a node knows of each other one in the end`() {
    let replay = Self.trace([[1, 2, 3], [4, 5], [1, 2]])
    var known: [[Set<BlockKey>]] = []
    _ = replay.run(nodes: 2, blocks: 16, areMembers: true) { known = $0 }
    let keys = { (ids: [UInt64]) in Set(TraceRequest(milliseconds: 0, ids: ids).keys) }
    #expect(known == [[keys([4, 5])], [keys([1, 2, 3])]])
  }
}

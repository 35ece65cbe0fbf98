import RemoteG2Core
import Testing

/// The index against what a dictionary of sets would say.
@Suite struct `A large index of holders` {
  private struct Model {
    var sets: [PeerName: Set<BlockKey>] = [:]
    /// How often each key was said to have begun, less how often to have ceased.
    var known: [BlockKey: Int] = [:]

    func run(of keys: [BlockKey], at member: PeerName) -> Int {
      keys.prefix { sets[member]?.contains($0) ?? false }.count
    }
  }

  private struct Chance {
    var state: UInt64
    mutating func next() -> UInt64 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return state >> 24
    }
    mutating func below(_ most: Int) -> Int { Int(next() % UInt64(most)) }
  }

  @Test(arguments: 1...6) func `says what a dictionary of sets would, whatever comes and goes`(
    seed: UInt64
  ) {
    var (chance, model) = (Chance(state: seed), Model())
    var index = HolderIndex(keysMax: 1 << 20, seed: Incarnation(high: seed, low: ~seed))
    let members = (0..<70).map { PeerName("m\($0)") }
    let keys = (0..<3000).map { _ in BlockKey(high: chance.next() << 30, low: chance.next()) }
    var (numbers, open): ([PeerName: UInt64], [PeerName]) = ([:], [])
    func note() {
      for change in index.takeChanges() {
        model.known[change.key, default: 0] += change.isSealed ? 1 : -1
      }
    }
    for step in 0..<4000 {
      switch chance.below(20) {
      case 0 where open.count < 60:
        let member = members[chance.below(members.count)]
        guard !open.contains(member) else { continue }
        open.append(member)
        let held = Set((0..<chance.below(800)).map { _ in keys[chance.below(keys.count)] })
        index.snapshot(Array(held), of: member)
        model.sets[member] = held
      case 1 where !open.isEmpty:
        let member = open.remove(at: chance.below(open.count))
        index.forget(member)
        model.sets[member] = nil
        numbers[member] = nil
      case 2: index.timePassed()
      case _ where !open.isEmpty:
        let member = open[chance.below(open.count)]
        let number = (numbers[member] ?? 0) + 1
        numbers[member] = number
        let changes = (0..<chance.below(12)).map { _ in
          FeedChange(key: keys[chance.below(keys.count)], isSealed: chance.below(2) == 0)
        }
        #expect(index.change(changes, number: number, of: member) == true)
        for change in changes {
          if change.isSealed {
            model.sets[member, default: []].insert(change.key)
          } else {
            model.sets[member]?.remove(change.key)
          }
        }
      default: break
      }
      note()
      guard step % 50 == 0 else { continue }
      let asked = (0..<8).map { _ in keys[chance.below(keys.count)] }
      let runs = index.runs(of: asked[...])
      for member in members {
        let run = model.run(of: asked, at: member)
        #expect(index.run(of: asked[...], at: member) == run)
        #expect(runs[member, default: 0] == run)
        #expect(index.keyCount(of: member) == model.sets[member]?.count ?? 0)
      }
      for key in asked {
        #expect(index.isAnnounced(key) == model.sets.values.contains { $0.contains(key) })
      }
    }
    // All that is left to sweep is swept by time alone, and then all adds up.
    while index.isSweeping { index.timePassed() }
    note()
    for member in open { #expect(index.keys(of: member) == model.sets[member]) }
    var counts: [BlockKey: Int] = [:]
    for set in model.sets.values { for key in set { counts[key, default: 0] += 1 } }
    #expect(model.known.filter { $0.value != 0 } == counts)
  }

  @Test func `a member that is forgotten counts no more at once, however much it had`() {
    var index = HolderIndex(keysMax: 1 << 20)
    var chance = Chance(state: 5)
    let keys = (0..<200_000).map { _ in BlockKey(high: chance.next() << 30, low: chance.next()) }
    index.snapshot(keys, of: "b")
    index.snapshot(Array(keys[..<10]), of: "c")
    _ = index.takeChanges()
    index.forget("b")
    #expect(index.isSweeping, "it is too much for once")
    #expect(index.runs(of: keys[..<20]) == ["c": 10])
    #expect(index.announcedCount == 10 && !index.isAnnounced(keys[50]))
    // It comes back before it is swept up.
    index.snapshot(Array(keys[..<5]), of: "b")
    #expect(index.runs(of: keys[..<20]) == ["b": 5, "c": 10])
    var rounds = 0
    while index.isSweeping {
      index.timePassed()
      rounds += 1
    }
    #expect(rounds > 5)
    #expect(index.takeChanges().filter { !$0.isSealed }.count == 200_000)
    #expect(index.runs(of: keys[..<20]) == ["b": 5, "c": 10])
  }
}

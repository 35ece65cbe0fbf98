import Foundation
import NodeTesting
import OSThreads
import Processes
import RemoteG2Core

/// (j) What a node's index of what all others hold takes: fifty members of a hundred thousand blocks.
enum IndexBench {
  private static let members = 50
  private static let keysOfEach = 100_000
  private static let asked = 256
  private static let rounds = 2001

  private static func key(_ member: Int, _ number: Int) -> BlockKey {
    FeedFlock.key(member, number)
  }

  static func run() {
    print("\n(j) an index of \(members) members with \(keysOfEach) blocks each:")
    let before = OwnMemory.allocatedBytes
    var index = HolderIndex(keysMax: Limits().indexKeysMax, seed: Incarnation(high: 7, low: 9))
    var worst = 0.0
    for member in 0..<members {
      let name = PeerName("m\(member)")
      for first in stride(from: 0, to: keysOfEach, by: 2048) {
        let page = (first..<min(first + 2048, keysOfEach)).map { key(member, $0) }
        worst = max(worst, Bench.seconds { index.snapshot(page, of: name) })
        _ = index.takeChanges()
      }
    }
    let bytes = OwnMemory.allocatedBytes - before
    var bare: [BlockKey: UInt64] = [:]
    for member in 0..<members {
      for number in 0..<keysOfEach { bare[key(member, number)] = UInt64(member) }
    }
    var chance = SystemRandomNumberGenerator()
    var (times, bareTimes): ([Double], [Double]) = ([], [])
    for _ in 0..<rounds {
      let member = Int.random(in: 0..<members, using: &chance)
      let first = Int.random(in: 0..<keysOfEach - asked, using: &chance)
      let keys = (first..<first + asked).map { key(member, $0) }
      times.append(
        Bench.seconds {
          precondition(index.runs(of: keys[...])[PeerName("m\(member)")] == asked)
        } * 1e6)
      // Others, so that neither finds what the other has brought near.
      let second = Int.random(in: 0..<keysOfEach - asked, using: &chance)
      let others = (second..<second + asked).map { key(member, $0) }
      bareTimes.append(
        Bench.seconds {
          var found = 0
          for key in others where bare[key] == UInt64(member) { found += 1 }
          precondition(found == asked)
        } * 1e6)
    }
    let count = members * keysOfEach
    print(
      String(
        format:
          "  %.1f bytes a key and member; \(asked) keys looked up in %.1f / %.1f us (p50 / p99), in a "
          + "dictionary of as many %.1f / %.1f; 2,048 keys heard in %.0f us at most",
        Double(bytes) / Double(count), Bench.quantile(times, 0.5), Bench.quantile(times, 0.99),
        Bench.quantile(bareTimes, 0.5), Bench.quantile(bareTimes, 0.99), worst * 1e6))
    var (longest, sweeps) = (Bench.seconds { index.forget("m7") }, 0)
    while index.isSweeping {
      longest = max(longest, Bench.seconds { index.timePassed() })
      sweeps += 1
    }
    print(
      String(
        format: "  a member is forgotten in \(sweeps) pieces, the longest %.0f us", longest * 1e6))
  }
}

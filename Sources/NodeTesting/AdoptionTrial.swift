internal import Foundation
internal import OSThreads
internal import Processes
internal import RemoteG2Core
internal import RemoteG2Library
internal import RemoteG2Node

/// Kills the process that serves a node again and again, in the middle of saves, pulls and loads, and looks what the
/// next one has of it.
package final class AdoptionTrial {
  package struct Result: Sendable {
    package var kills = 0
    /// From the kill to the first answer, to an engine of the host and to a member.
    package var backForEngines: [Duration] = []
    package var backForMembers: [Duration] = []
    /// Blocks that members knew of a second before a kill, and those of them that they could have again after it.
    package var expected = 0
    package var served = 0
    package var loads = 0
    package var pulls = 0
    /// Loads whose bytes were others, and that were not reported as failed.
    package var wrong = 0
    /// What the last process says of those before it.
    package var refused = 0
  }

  private let served: ServedNode
  private let other: TestNode
  private let own: NodeEngine
  private let remote: NodeEngine
  private var generator = SystemRandomNumberGenerator()
  /// Every key that was saved, and since when another member knows it.
  private var keys: [BlockKey] = []
  private var known: [BlockKey: LocalInstant] = [:]
  private var saveNext: UInt64 = 1
  private var result = Result()

  package init(program: String) throws {
    served = try ServedNode(program: program, memory: "256MiB")
    other = try TestNode(
      "b", members: [("a", StreamAddress(host: "127.0.0.1", port: served.port))],
      memoryBytes: 512 << 10)
    own = try NodeEngine(served.socket)
    remote = try NodeEngine(other.socket)
    guard own.comes({ own.isAttached }), remote.comes({ remote.isAttached }) else {
      throw ServedNode.Failure(description: "the engines do not attach: \(served.log)")
    }
    own.step()
  }

  private static func content(_ key: BlockKey) -> UInt64 { key.low &* 0x9E37_79B9_7F4A_7C15 | 1 }

  /// - Parameter told: Called after every kill.
  package func run(kills: Int, told: (Result) -> Void = { _ in }) throws -> Result {
    work(for: .milliseconds(1_500))
    for number in 0..<kills {
      // Every third comes while the one before is still being looked through; two such in a row would be trusted no
      // more.
      try kill(
        after: number % 3 == 2
          ? .microseconds(Int64.random(in: 0...300_000, using: &generator))
          : .microseconds(Int64.random(in: 1_100_000...1_500_000, using: &generator)),
        isLookedAt: number % 3 != 1)
      told(result)
    }
    result.refused = served.report?.adoption?.refused ?? 0
    return result
  }

  /// Both nodes and their engines end.
  ///
  /// - Returns: What is left of the processes, in words; nil: nothing.
  package func end() -> String? {
    let serving = served.serving
    other.stop()
    guard served.end() == 0 else { return "the node did not end as it should" }
    guard let serving, Glibc.kill(serving, 0) == 0 else { return nil }
    return "its process \(serving) outlives it"
  }

  package var log: String { served.log }

  private final class Kill: Sendable {
    let times = Guarded<(at: LocalInstant, local: LocalInstant?, stream: LocalInstant?)?>(nil)
  }

  private func kill(after delay: Duration, isLookedAt: Bool) throws {
    guard let report = served.report, let life = report.adoption?.life, let pid = served.serving
    else { throw ServedNode.Failure(description: "the node does not answer: \(served.log)") }
    let done = Kill()
    let served = served
    let thread = OSThread.start("kill") {
      OSThread.nap(delay)
      let at = MonotonicClock.now()
      _ = Glibc.kill(pid, SIGKILL)
      done.times.withLock { $0 = (at, nil, nil) }
      let deadline = at + .seconds(10)
      while MonotonicClock.now() < deadline {
        let (local, stream) = done.times.withLock { ($0?.local, $0?.stream) }
        if local != nil, stream != nil { return }
        if local == nil, (served.report?.adoption?.life ?? life) > life {
          done.times.withLock { $0?.local = MonotonicClock.now() }
        }
        // The one before might still answer.
        if stream == nil, Glibc.kill(pid, 0) != 0, served.welcomes() {
          done.times.withLock { $0?.stream = MonotonicClock.now() }
        }
        OSThread.nap(.microseconds(500))
      }
    }
    while done.times.withLock({ $0?.stream == nil || $0?.local == nil }) {
      work(for: .milliseconds(20))
      if let at = done.times.withLock({ $0?.at }), MonotonicClock.now() - at > .seconds(11) {
        break
      }
    }
    thread.join()
    guard let (at, local, stream) = done.times.withLock({ $0 }), let local, let stream else {
      throw ServedNode.Failure(description: "the node did not come back: \(served.log)")
    }
    result.kills += 1
    result.backForEngines.append(local - at)
    result.backForMembers.append(stream - at)
    if isLookedAt { try look(at) }
  }

  /// What members knew of a second before, they can have again.
  private func look(_ killedAt: LocalInstant) throws {
    guard comes({ served.report?.adoption?.waiting == 0 }),
      comes({ other.report.members.first?.standing == "connected" })
    else { throw ServedNode.Failure(description: "it does not take over: \(served.log)") }
    let before = Set(known.filter { $0.value + .seconds(1) <= killedAt }.keys)
    // Its feed tells them piece by piece.
    var lacking = before
    _ = comes {
      lacking.subtract(announced)
      return lacking.isEmpty
    }
    result.expected += before.count
    result.served += before.count - lacking.count
    for key in before.shuffled(using: &generator).prefix(10) {
      load(key, remote)
      load(key, own)
    }
  }

  private var announced: Set<BlockKey> { other.node.look { $0.keysAnnounced(by: "a") } }

  /// Saves, pulls and loads.
  private func work(for duration: Duration) {
    let end = MonotonicClock.now() + duration
    repeat {
      saveSome()
      noteKnown()
      if let key = keys.randomElement(using: &generator) { load(key, remote) }
      if let key = keys.randomElement(using: &generator) { load(key, own) }
    } while MonotonicClock.now() < end
  }

  /// So many fit the pool that none is evicted: what is not there again was lost with its process.
  private static let keysMax = 15_000
  private static let savePause: Duration = .milliseconds(15)
  private var savedAt = LocalInstant(nanoseconds: 0)

  private func saveSome() {
    let now = MonotonicClock.now()
    guard keys.count < Self.keysMax, now - savedAt > Self.savePause else { return }
    savedAt = now
    let new = (0..<2).map { BlockKey(high: 500, low: saveNext &+ $0) }
    saveNext += 2
    own.save(new) { Self.content(new[$0]) }
    keys += new
  }

  private var notedAt = LocalInstant(nanoseconds: 0)

  /// Ten times a second: there are many.
  private func noteKnown() {
    let now = MonotonicClock.now()
    guard now - notedAt > .milliseconds(100) else { return }
    notedAt = now
    for key in announced where known[key] == nil { known[key] = now }
  }

  private func load(_ key: BlockKey, _ engine: NodeEngine) {
    let place = 8 + Int.random(in: 0..<8, using: &generator)
    let (failed, pulled) = (engine.errors.count, other.node.look(\.blocksPulled))
    guard engine.load([key], into: place) == 1 else { return }
    result.loads += 1
    result.pulls += Int(other.node.look(\.blocksPulled) - pulled)
    if engine.errors.count == failed, engine.content(place) != Self.content(key) {
      result.wrong += 1
    }
  }
}

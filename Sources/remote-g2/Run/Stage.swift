import Foundation
import OSThreads
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

/// The prompts, the golden results and the fleet that the scenes act on.
final class Stage {
  let fleet: Fleet
  let prompts: [[Int32]]
  /// Nothing in common with the prompts; as long as the longest.
  let stranger: [Int32]
  let tokensPerBlock = 16
  let blockBytes: Int
  /// By prompt: B alone.
  var golden: [ConsoleResult] = []
  /// By prompt: A alone, to be compared with the golden ones.
  var firstResults: [ConsoleResult] = []
  private let progress: (String) -> Void
  private var movedBefore: [RankCounts] = []

  init(
    fleet: Fleet, prompts: [[Int32]], stranger: [Int32], blockBytes: Int,
    progress: @escaping (String) -> Void
  ) {
    self.fleet = fleet
    self.prompts = prompts
    self.stranger = stranger
    self.blockBytes = blockBytes
    self.progress = progress
  }

  /// A prompt of this length that shares no block with another of another number.
  func text(_ count: Int, from number: Int) -> [Int32] {
    let start = (number * 101 + 7) % stranger.count
    var tokens = Array(stranger[start...])
    while tokens.count < count { tokens += stranger }
    return Array(tokens.prefix(count))
  }

  func say(_ words: String) { progress(words) }

  var generate: Int { fleet.settings.generate }
  /// Whole blocks of the first prompt that may be loaded: the last token is always computed.
  var blocks: Int { (prompts[0].count - 1) / tokensPerBlock }
  var bytes: Int { blocks * blockBytes }

  /// How long a paced pull of the first prompt takes: long enough for a fault to fall into it, well below
  /// the time of computing it, and so that a block comes every 30 ms at the slowest: a paced reader does
  /// not hear of its source's death before its next block is due.
  var paceSeconds: Double { min(0.55 * (golden.first?.ttftSeconds ?? 2), 0.03 * Double(blocks)) }

  /// - Parameter ranks: Of B, those that are paced; nil: all.
  func setPace(_ isOn: Bool, ranks: [Int]? = nil, transferBlocks: Int = 1) throws {
    let rate = Double(bytes) / paceSeconds
    try fleet.b.perform(
      .pace(
        .init(
          bytesPerSecond: isOn ? rate : nil, transferBlocks: isOn ? transferBlocks : nil,
          ranks: ranks)))
  }

  /// Waits until A's store holds the first prompt, saving it again from A's G1 if need be.
  func fillA() throws {
    try fleet.waitUntilConnected("A", peer: nil)
    try fleet.poll("A's store is filled", seconds: 20) {
      let audit = try fleet.a.audit()
      if audit.storeSealed ?? 0 >= blocks, audit.saving == 0 { return true }
      try fleet.a.perform(.save(prompt: prompts[0]))
      return false
    }
    try fleet.waitUntilConnected("B", peer: "A")
  }

  // MARK: Proofs

  func landedBytes(at instant: Int64 = .max) -> Int { fleet.b.landedBytes(at: instant) }
  /// Since ``startTrace()``, by rank of B.
  func movedByRank() throws -> [Int] {
    zip(try fleet.b.audit().ranks, movedBefore).map { Int($0.bytesMoved - $1.bytesMoved) }
  }
  func movedBytes() throws -> Int { try movedByRank().reduce(0, +) }
  func wasInFlight(at instant: Int64) -> Bool { fleet.b.wasInFlight(at: instant) }
  func leadingLanded(at instant: Int64) -> Int {
    fleet.b.leadingLanded(at: instant, blockBytes: blockBytes)
  }
  var pullSeconds: Double? { fleet.b.pullSeconds }

  /// Waits until a share of the pull has landed, while the rest is in flight.
  ///
  /// - Returns: false when the pull was given up before.
  func waitForLanded(share: Double) throws -> Bool {
    do {
      return try fleet.b.wait("the pull to be under way", seconds: 30) {
        if landedBytes() >= Int(Double(bytes) * share), wasInFlight(at: .max) { return true }
        return isGivenUp ? false : nil
      }
    } catch {
      let events = fleet.b.fetchEvents.map { event in
        [event.kind, event.peer, event.reason].compactMap { $0 }.joined(separator: " ")
      }
      throw SceneFailure(
        "\(error): \(landedBytes()) of \(bytes) bytes landed; what B told: \(events)")
    }
  }

  /// Waits until something holds while the pull goes on.
  ///
  /// - Returns: false when the pull was given up before.
  func waitInPull(until isTime: () throws -> Bool) throws -> Bool {
    var hasCome = false
    try fleet.poll("the pull is where the fault is to fall", seconds: 10) {
      hasCome = try isTime()
      return hasCome || isGivenUp
    }
    return hasCome
  }

  private var isGivenUp: Bool {
    fleet.b.fetchEvents.contains { $0.kind == "fallback" && $0.peer == "A" }
  }

  /// Traces B's transfers from here on.
  func startTrace() throws {
    try fleet.b.perform(.trace(true))
    fleet.b.clearTrace()
    movedBefore = try fleet.b.audit().ranks
  }

  func now() -> Int64 { MonotonicClock.now().nanoseconds }
}

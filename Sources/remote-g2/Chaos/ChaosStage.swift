import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Runtime
import Simulation
import WorkerConsole

/// Plays one fault after another on two real workers: a clean recompute, then a paced pull of the same
/// prompt in whose middle the fault happens.
final class ChaosStage {
  let fleet: Fleet
  let prompts: [[Int32]]
  let blockBytes: Int
  let tokensPerBlock = 16
  private let say: (String) -> Void
  var chance: Chance
  private(set) var golden: [ConsoleResult] = []
  /// Engines and stores that are expected to be alive, by name.
  private var expected: [String: Int32] = [:]
  private var starts: [String: Int] = [:]
  private(set) var unexpectedDeaths: [String] = []
  static let leaseTTL = 1.0
  /// Stopped for good, until its round is over.
  var stopped: NodeProcesses?
  /// Told to leave, until its round is over.
  var leaving: NodeProcesses?

  init(
    fleet: Fleet, prompts: [[Int32]], blockBytes: Int, seed: UInt64, say: @escaping (String) -> Void
  ) {
    self.fleet = fleet
    self.prompts = prompts
    self.blockBytes = blockBytes
    self.say = say
    chance = Chance(seed: seed)
  }

  var generate: Int { fleet.settings.generate }
  func now() -> Int64 { MonotonicClock.now().nanoseconds }
  func blocks(_ prompt: [Int32]) -> Int { (prompt.count - 1) / tokensPerBlock }

  // MARK: Set-up

  /// B alone, every prompt; A warmed with all of them.
  func prepare() throws {
    try fleet.start("A")
    try fleet.start("B")
    try fleet.waitUntilReady("A", peer: "B")
    try fleet.waitUntilReady("B", peer: "A")
    try fleet.takeBaseline()
    for prompt in prompts {
      golden.append(try fleet.b.generate(prompt, generate: generate))
    }
    for prompt in prompts { try fill(prompt) }
    try fleet.b.perform(.leaseTTL(seconds: Self.leaseTTL))
    try noteProcesses()
  }

  /// A's store holds the whole prompt, computed again if need be.
  func fill(_ prompt: [Int32]) throws {
    try fleet.waitUntilConnected("A", peer: nil)
    let wanted = try fleet.a.generate(prompt, generate: 1)
    guard wanted.tokens.first == golden[index(of: prompt)].tokens.first else {
      throw SceneFailure("A's own tokens are wrong")
    }
    try fleet.a.perform(.save(prompt: prompt))
    // Twice, because what an audit says may be a step old.
    var quiet = 0
    try fleet.poll("A's store is filled", seconds: 20) {
      let audit = try fleet.a.audit()
      quiet = audit.saving == 0 && audit.storeSealed ?? 0 >= blocks(prompt) ? quiet + 1 : 0
      return quiet == 2
    }
    try fleet.waitUntilConnected("B", peer: "A")
  }

  func index(of prompt: [Int32]) -> Int { prompts.firstIndex(of: prompt) ?? 0 }

  // MARK: Who lives

  private func noteProcesses() throws {
    for name in ["A", "B"] {
      expected["engine \(name)"] = fleet.workers[name]?.process.pid
      let store = try fleet.nodeProcesses(name)
      expected["store \(name)"] = store.node.pid
      expected["agent \(name)"] = store.agent.pid
      starts[name] = try fleet.workers[name]?.audit().storeStarts
    }
  }

  /// Whoever is not who it was, and was not killed; or whose store was started more often than killed.
  private func checkProcesses(killed: Set<String>) throws {
    let (before, startsBefore) = (expected, starts)
    try noteProcesses()
    for (name, pid) in before.sorted(by: { $0.key < $1.key })
    where !killed.contains(name) && expected[name] != pid {
      unexpectedDeaths.append("\(name) (\(pid))")
    }
    for name in ["A", "B"] where killed.contains("store \(name)") {
      let extra = (starts[name] ?? 0) - (startsBefore[name] ?? 0) - 1
      if extra > 0 { unexpectedDeaths.append("store \(name), \(extra) times more than killed") }
    }
  }

  /// Engines that ended though nobody ended them.
  func noteDeadEngines() {
    for (name, worker) in fleet.workers.sorted(by: { $0.key < $1.key })
    where worker.process.hasEnded() { unexpectedDeaths.append("engine \(name)") }
  }

  // MARK: A round

  func play(_ fault: ChaosFault, number: Int) throws -> ChaosRound {
    var round = ChaosRound(number: number, fault: fault)
    let prompt = chance.pick(prompts)
    let golden = golden[index(of: prompt)]
    round.prompt_tokens = prompt.count
    if fault == .evictionStorm { try fill(prompts[(index(of: prompt) + 1) % prompts.count]) }
    try fill(prompt)
    // The clean recompute, just before.
    try fleet.b.dropCaches()
    let clean = try fleet.b.generate(prompt, generate: generate)
    round.clean_ttft_s = clean.ttftSeconds
    round.expect(clean.tokens == golden.tokens, "the clean run's tokens are wrong")
    let victims = Victims(
      storeA: try fleet.nodeProcesses("A"), storeB: try fleet.nodeProcesses("B"),
      incarnationB: try fleet.b.audit().storeIncarnation)
    let share = 0.05 + 0.7 * chance.unit()
    let id = try beginPull(prompt, share: share, computing: clean.ttftSeconds ?? 1)
    let (at, killed) = try happen(fault, to: victims, id, prompt, &round)
    if fault.keepsRequest {
      let result = try fleet.b.result(of: id)
      judge(result, golden, &round, at: at)
      try after(fault, &round)
    }
    try fleet.waitUntilConnected("A", peer: "B")
    try fleet.waitUntilConnected("B", peer: "A")
    try fleet.b.perform(.pace(.init()))
    try fleet.b.perform(.leaseTTL(seconds: Self.leaseTTL))
    let leaks = try fleet.leaks(seconds: 6)
    round.leaks = leaks.total
    round.expect(leaks.isClean, "leaks: \(leaks.total) \(fleet.leakDetails)")
    try checkProcesses(killed: killed)
    return round
  }

  private static let rightlyGivesUp: Set<String> = ["slower", "outpaced", "stalled"]

  /// Starts a paced pull on B and returns once this share of it has landed.
  ///
  /// After a link was slow B rightly computes, or finds the first of what comes too slow, and believes a little less
  /// each time that it still is; on a busy machine it may give A up before the fault. Then there is nothing for a fault
  /// to fall into, and it is begun again.
  ///
  /// - Parameter seconds: What computing the prompt takes.
  @discardableResult
  func beginPull(_ prompt: [Int32], share: Double, computing seconds: Double) throws -> UInt64 {
    let bytes = blocks(prompt) * blockBytes
    // Slow enough for a fault to fall into it, and worth going on with all the same.
    let rate = Double(bytes) / (0.6 * seconds)
    for attempt in 1... {
      try fleet.b.dropCaches()
      try fleet.b.perform(.pace(.init(bytesPerSecond: rate, transferBlocks: 1)))
      try fleet.b.perform(.trace(true))
      fleet.b.clearTrace()
      let id = try fleet.b.begin(prompt, generate: generate, hint: "A")
      let isUnderWay = try fleet.b.wait("the pull to be under way", seconds: 30) { () -> Bool? in
        if fleet.b.landedBytes() >= Int(Double(bytes) * share), fleet.b.wasInFlight(at: .max) {
          return true
        }
        return fleet.b.hasResult(of: id) ? false : nil
      }
      if isUnderWay { return id }
      let result = try fleet.b.result(of: id)
      guard attempt < 10, Self.rightlyGivesUp.isSuperset(of: result.reasons),
        !result.reasons.isEmpty, result.tokens == golden[index(of: prompt)].tokens
      else { throw SceneFailure("a pull ended before the fault, by \(result.reasons)") }
      say(
        "  B gave the pull up before the fault (\(result.reasons.joined(separator: ", "))): begun again"
      )
    }
    preconditionFailure("the last attempt returns or throws")
  }

  private func judge(
    _ result: ConsoleResult, _ golden: ConsoleResult, _ round: inout ChaosRound, at fault: Int64
  ) {
    let bytes = (round.prompt_tokens - 1) / tokensPerBlock * blockBytes
    let landed = fleet.b.landedBytes(at: fault)
    round.landed_share = Double(landed) / Double(bytes)
    round.is_proved = fleet.b.wasInFlight(at: fault) && landed < bytes
    round.ttft_s = result.ttftSeconds
    round.tokens_pulled = result.pulledTokens
    round.tokens_kept = result.keptTokens
    round.reasons = result.reasons
    round.leading_landed =
      fleet.b.leadingLanded(at: result.settledAt ?? .max, blockBytes: blockBytes) * tokensPerBlock
    if let settled = result.settledAt { round.fault_to_settle_s = Double(settled - fault) / 1e9 }
    round.identical =
      result.tokens == golden.tokens && result.logitsDigest == golden.logitsDigest
      && result.kvDigest == golden.kvDigest
    round.expect(round.identical, "tokens, logits or KV differ from the golden run's")
  }
}

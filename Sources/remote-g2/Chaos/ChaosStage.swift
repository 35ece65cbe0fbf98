import Foundation
import OSThreads
import RemoteG2Core
import RemoteG2Runtime
import Simulation

/// Plays one fault after another on two real workers: a clean recompute, then a paced pull of the same
/// prompt in whose middle the fault happens.
final class ChaosStage {
  let fleet: Fleet
  let prompts: [[Int32]]
  let blockBytes: Int
  let tokensPerBlock = 16
  private let say: (String) -> Void
  private var chance: Chance
  private(set) var golden: [WireResult] = []
  /// Engines and stores that are expected to be alive, by name.
  private var expected: [String: Int32] = [:]
  private(set) var unexpectedDeaths: [String] = []
  static let leaseTTL = 1.0

  init(
    fleet: Fleet, prompts: [[Int32]], blockBytes: Int, seed: UInt64, say: @escaping (String) -> Void
  ) {
    self.fleet = fleet
    self.prompts = prompts
    self.blockBytes = blockBytes
    self.say = say
    chance = Chance(seed: seed)
  }

  private var generate: Int { fleet.settings.generate }
  private func now() -> Int64 { MonotonicClock.now().nanoseconds }
  private func blocks(_ prompt: [Int32]) -> Int { (prompt.count - 1) / tokensPerBlock }

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
    try fleet.b.perform(.ttl) { $0.seconds = Self.leaseTTL }
    try noteProcesses()
  }

  /// A's store holds the whole prompt, computed again if need be.
  private func fill(_ prompt: [Int32]) throws {
    try fleet.waitUntilConnected("A", peer: nil)
    let wanted = try fleet.a.generate(prompt, generate: 1)
    guard wanted.tokens.first == golden[index(of: prompt)].tokens.first else {
      throw SceneFailure("A's own tokens are wrong")
    }
    try fleet.a.perform(.save) { $0.prompt = prompt }
    // Twice, because what an audit says may be a step old.
    var quiet = 0
    try fleet.poll("A's store is filled", seconds: 20) {
      let audit = try fleet.a.audit()
      quiet = audit.saving == 0 && audit.storeSealed ?? 0 >= blocks(prompt) ? quiet + 1 : 0
      return quiet == 2
    }
    try fleet.waitUntilConnected("B", peer: "A")
  }

  private func index(of prompt: [Int32]) -> Int { prompts.firstIndex(of: prompt) ?? 0 }

  // MARK: Who lives

  private func noteProcesses() throws {
    for name in ["A", "B"] {
      expected["engine \(name)"] = fleet.workers[name]?.process.pid
      expected["store \(name)"] = try fleet.storeProcess(name).pid
    }
  }

  /// Whoever is not who it was, and was not killed.
  private func checkProcesses(killed: Set<String>) throws {
    let before = expected
    try noteProcesses()
    for (name, pid) in before.sorted(by: { $0.key < $1.key })
    where !killed.contains(name) && expected[name] != pid {
      unexpectedDeaths.append("\(name) (\(pid))")
    }
  }

  // MARK: A round

  func play(_ fault: ChaosFault, number: Int) throws -> ChaosRound {
    var round = ChaosRound(number: number, fault: fault)
    let prompt = chance.pick(prompts)
    let golden = golden[index(of: prompt)]
    round.prompt_tokens = prompt.count
    try fill(prompt)
    // The clean recompute, just before.
    try fleet.b.dropCaches()
    let clean = try fleet.b.generate(prompt, generate: generate)
    round.clean_ttft_s = clean.ttftSeconds
    round.expect(clean.tokens == golden.tokens, "the clean run's tokens are wrong")
    try fleet.b.dropCaches()
    let bytes = blocks(prompt) * blockBytes
    let pace = max(0.5, 0.5 * (clean.ttftSeconds ?? 1))
    let victims = Victims(
      storeA: try fleet.storeProcess("A"), storeB: try fleet.storeProcess("B"),
      incarnationB: try fleet.b.audit().storeIncarnation)
    try fleet.b.perform(.pace) {
      $0.bytesPerSecond = Double(bytes) / pace
      $0.transferBlocks = 1
    }
    try fleet.b.perform(.trace) { $0.on = true }
    fleet.b.clearTrace()
    let id = try fleet.b.begin(prompt, generate: generate, hint: "A")
    let share = 0.05 + 0.7 * chance.unit()
    _ = try fleet.b.wait("the pull to be under way", seconds: 30) {
      fleet.b.landedBytes() >= Int(Double(bytes) * share) && fleet.b.wasInFlight(at: .max)
        ? true : nil
    }
    let (at, killed) = try happen(fault, to: victims, id, prompt, &round)
    if fault.keepsRequest {
      let result = try fleet.b.result(of: id)
      judge(result, golden, &round, at: at)
      try after(fault, &round)
    }
    try fleet.waitUntilConnected("A", peer: "B")
    try fleet.waitUntilConnected("B", peer: "A")
    try fleet.b.perform(.pace)
    try fleet.b.perform(.ttl) { $0.seconds = Self.leaseTTL }
    let leaks = try fleet.leaks(seconds: 6)
    round.leaks = leaks.total
    round.expect(leaks.isClean, "leaks: \(leaks.total) \(fleet.leakDetails)")
    try checkProcesses(killed: killed)
    return round
  }

  private func judge(
    _ result: WireResult, _ golden: WireResult, _ round: inout ChaosRound, at fault: Int64
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

  // MARK: Faults

  /// Looked up before the pull, so that the fault does not come after it.
  private struct Victims {
    let storeA: ChildProcess
    let storeB: ChildProcess
    let incarnationB: String?
  }

  /// - Returns: When it was begun, and who was killed. A death follows within milliseconds; what was
  ///   in flight when the signal was sent had not ended then.
  private func happen(
    _ fault: ChaosFault, to victims: Victims, _ id: UInt64, _ prompt: [Int32],
    _ round: inout ChaosRound
  ) throws -> (at: Int64, killed: Set<String>) {
    switch fault {
    case .storeKilled:
      round.resident_mb = Self.residentMB(victims.storeA.pid)
      let at = now()
      try kill(victims.storeA, SIGKILL)
      return (at, ["store A"])
    case .storeStopped, .storeStoppedForGood:
      let store = victims.storeA
      store.signal(SIGSTOP)
      try fleet.poll("A's store is stopped", seconds: 5) { store.stateLetter == "T" }
      let at = now()
      if fault == .storeStopped {
        Self.wait(seconds: 0.1 + 0.7 * chance.unit())
        store.signal(SIGCONT)
        return (at, [])
      }
      stopped = store
      return (at, ["store A"])
    case .sourceEngineKilled:
      let at = now()
      try kill(fleet.a.process, SIGKILL)
      return (at, ["engine A"])
    case .targetKilled:
      try killTarget(prompt, &round)
      return (now(), ["engine B"])
    case .ownStoreKilled, .ownStoreAborted:
      let at = now()
      try kill(victims.storeB, fault == .ownStoreKilled ? SIGKILL : SIGABRT)
      try fleet.poll("B's store is back", seconds: 10) {
        let audit = try fleet.b.audit()
        return audit.storeIncarnation != nil && audit.storeIncarnation != victims.incarnationB
      }
      let back = Double(now() - at) / 1e9
      round.own_store_back_s = back
      round.expect(back <= 1, "B's store was back after \(back) s")
      return (at, ["store B"])
    case .evictionStorm:
      let at = now()
      for _ in 0..<10 {
        try fleet.a.perform(.drop) { $0.store = true }
        Self.wait(seconds: 0.02)
      }
      return (at, [])
    case .cancelStorm:
      try cancelStorm(id, prompt, &round)
      return (now(), [])
    case .linkCut:
      let at = now()
      try fleet.settings.link?.set(up: false)
      Self.wait(seconds: 0.2 + 0.8 * chance.unit())
      try fleet.settings.link?.set(up: true)
      return (at, [])
    case .linkSlowed:
      let at = now()
      try fleet.settings.link?.slow(bitsPerSecond: 20_000_000)
      return (at, [])
    }
  }

  private var stopped: ChildProcess?

  /// What the fault left standing is put right, and what it must have led to is checked.
  private func after(_ fault: ChaosFault, _ round: inout ChaosRound) throws {
    switch fault {
    case .storeStoppedForGood:
      guard let store = stopped else { return }
      round.expect(store.stateLetter == "T", "A's store was not stopped throughout")
      let quarantined = try fleet.b.audit().quarantined
      round.expect(quarantined > 0, "nothing was quarantined while A was stopped")
      try kill(store, SIGKILL)
      stopped = nil
    case .storeKilled:
      round.expect(
        round.tokens_kept == round.leading_landed,
        "\(round.tokens_kept) tokens were kept, \(round.leading_landed) had landed")
    case .sourceEngineKilled:
      try fleet.start("A")
      try fleet.waitUntilReady("A", peer: "B")
      expectAllKept(&round)
    case .ownStoreKilled, .ownStoreAborted, .evictionStorm: expectAllKept(&round)
    case .linkSlowed: try fleet.settings.link?.slow(bitsPerSecond: nil)
    case .storeStopped, .linkCut, .targetKilled, .cancelStorm: break
    }
  }

  private func expectAllKept(_ round: inout ChaosRound) {
    round.expect(
      round.tokens_kept == round.tokens_pulled && round.reasons.isEmpty,
      "\(round.tokens_kept) of \(round.tokens_pulled) were kept: \(round.reasons)")
  }

  private func kill(_ process: ChildProcess, _ signal: Int32) throws {
    process.signal(signal)
    guard process.hasEnded(waiting: 5_000) else {
      throw SceneFailure("process \(process.pid) did not die")
    }
  }

  private func killTarget(_ prompt: [Int32], _ round: inout ChaosRound) throws {
    let at = now()
    let landed = fleet.b.landedBytes(at: at)
    let bytes = blocks(prompt) * blockBytes
    round.is_proved = fleet.b.wasInFlight(at: at) && landed < bytes
    round.landed_share = Double(landed) / Double(bytes)
    try kill(fleet.b.process, SIGKILL)
    try fleet.poll("A's leases are back", seconds: Self.leaseTTL + 1) {
      try fleet.a.audit().storeLeases == 0
    }
    try fleet.start("B")
    try fleet.waitUntilReady("B", peer: "A")
    let result = try fleet.b.generate(prompt, generate: generate, hint: "A")
    round.identical = result.tokens == golden[index(of: prompt)].tokens
    round.expect(round.identical, "B's tokens are wrong after its restart")
  }

  /// Many requests come, and go before they are served.
  private func cancelStorm(
    _ id: UInt64, _ prompt: [Int32], _ round: inout ChaosRound
  ) throws {
    let at = now()
    let landed = fleet.b.landedBytes(at: at)
    let bytes = blocks(prompt) * blockBytes
    round.is_proved = fleet.b.wasInFlight(at: at) && landed < bytes
    round.landed_share = Double(landed) / Double(bytes)
    var ids = [id]
    for other in prompts.prefix(4) {
      ids.append(try fleet.b.begin(other, generate: generate, hint: "A"))
    }
    for id in ids {
      Self.wait(seconds: 0.05 * chance.unit())
      try fleet.b.cancel(id)
    }
    for id in ids { _ = try fleet.b.result(of: id) }
    try fleet.b.perform(.pace)
    let result = try fleet.b.generate(prompt, generate: generate, hint: "A")
    round.identical = result.tokens == golden[index(of: prompt)].tokens
    round.expect(round.identical, "B's tokens are wrong after the storm")
  }

  private static func wait(seconds: Double) { usleep(UInt32(seconds * 1e6)) }

  private static func residentMB(_ pid: Int32) -> Int? {
    let pages = (ProcFile.text("/proc/\(pid)/statm") ?? "").split(separator: " ")
    return pages.count > 1 ? Int(pages[1]).map { $0 * 4096 / (1 << 20) } : nil
  }
}

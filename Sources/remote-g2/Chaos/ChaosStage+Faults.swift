import Foundation
import Processes
import RemoteG2Core
import RemoteG2Runtime
import Simulation
import WorkerConsole

/// The faults themselves, and what each must have led to.
extension ChaosStage {
  /// Looked up before the pull, so that the fault does not come after it.
  struct Victims {
    let storeA: NodeProcesses
    let storeB: NodeProcesses
    let incarnationB: String?
  }

  /// - Returns: When it was begun, and who was killed. A death follows within milliseconds; what was
  ///   in flight when the signal was sent had not ended then.
  func happen(
    _ fault: ChaosFault, to victims: Victims, _ id: UInt64, _ prompt: [Int32],
    _ round: inout ChaosRound
  ) throws -> (at: Int64, killed: Set<String>) {
    switch fault {
    case .storeKilled:
      round.resident_mb = Self.residentMB(victims.storeA.node.pid)
      let at = now()
      try kill(victims.storeA, SIGKILL)
      return (at, ["store A", "agent A"])
    case .storeLeaves:
      // As its operator stops it: what is being read is read to its end.
      let at = now()
      victims.storeA.node.signal(SIGTERM)
      leaving = victims.storeA
      return (at, ["store A", "agent A"])
    case .agentAborted:
      let at = now()
      try kill(victims.storeA.agent, SIGABRT)
      return (at, ["agent A"])
    case .storeStopped, .storeStoppedForGood:
      let store = victims.storeA
      store.signal(SIGSTOP)
      try fleet.poll("A's store is stopped", seconds: 5) { store.isStopped }
      let at = now()
      if fault == .storeStopped {
        Self.wait(seconds: 0.1 + 0.7 * chance.unit())
        store.signal(SIGCONT)
        return (at, [])
      }
      stopped = store
      return (at, ["store A", "agent A"])
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
      return (at, ["store B", "agent B"])
    case .evictionStorm:
      let sealed = try fleet.a.audit().storeSealed ?? 0
      let at = now()
      for _ in 0..<10 {
        try fleet.a.perform(.drop(.init(store: true)))
        Self.wait(seconds: 0.02)
      }
      // Leased blocks stay, everything else goes: there must have been something else.
      let left = try fleet.a.audit().storeSealed ?? 0
      round.expect(left < sealed, "nothing was evicted: \(left) of \(sealed) blocks are left")
      return (at, [])
    case .cancelStorm:
      try cancelStorm(id, prompt, &round)
      return (now(), [])
    case .linkCut:
      try fleet.settings.link?.set(up: false)
      let at = now()
      Self.wait(seconds: 0.2 + 0.8 * chance.unit())
      try fleet.settings.link?.set(up: true)
      return (at, [])
    case .linkSlowed:
      try fleet.settings.link?.slow(bitsPerSecond: 20_000_000)
      let at = now()
      return (at, [])
    }
  }

  /// What the fault left standing is put right, and what it must have led to is checked.
  func after(_ fault: ChaosFault, _ round: inout ChaosRound) throws {
    switch fault {
    case .storeStoppedForGood:
      guard let store = stopped else { return }
      round.expect(store.isStopped, "A's store was not stopped throughout")
      let quarantined = try fleet.b.audit().quarantined
      round.expect(quarantined > 0, "nothing was quarantined while A was stopped")
      try kill(store, SIGKILL)
      stopped = nil
    case .storeKilled, .agentAborted:
      round.expect(
        round.tokens_kept == round.leading_landed,
        "\(round.tokens_kept) tokens were kept, \(round.leading_landed) had landed")
    case .storeLeaves:
      guard let store = leaving else { return }
      leaving = nil
      round.expect(store.hasEnded(waiting: 15_000), "A's store did not leave as it should")
      expectAllKept(&round)
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
    // On a machine that stalls, a hedge is right, and costs tokens; the report bounds how often.
    round.expect(
      round.tokens_kept == round.tokens_pulled || round.reasons == ["stalled"],
      "\(round.tokens_kept) of \(round.tokens_pulled) were kept: \(round.reasons)")
  }

  private func kill(_ store: NodeProcesses, _ signal: Int32) throws {
    store.signal(signal)
    guard store.hasEnded(waiting: 5_000) else {
      throw SceneFailure("process \(store.node.pid) did not die")
    }
  }

  private func kill(_ process: ChildProcess, _ signal: Int32) throws {
    process.signal(signal)
    guard process.hasEnded(waiting: 5_000) else {
      throw SceneFailure("process \(process.pid) did not die")
    }
  }

  private func killTarget(_ prompt: [Int32], _ round: inout ChaosRound) throws {
    let at = now()
    try kill(fleet.b.process, SIGKILL)
    prove(&round, prompt, at: at)
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
    try fleet.b.cancel(id)
    var ids = [id]
    for other in prompts.prefix(4) {
      ids.append(try fleet.b.begin(other, generate: generate, hint: "A"))
    }
    for id in ids.dropFirst() {
      Self.wait(seconds: 0.05 * chance.unit())
      try fleet.b.cancel(id)
    }
    let results = try ids.map { try fleet.b.result(of: $0) }
    let cut = results.count { $0.tokens.count < generate }
    round.expect(cut > 0 && results[0].tokens.isEmpty, "nothing was cancelled in time")
    prove(&round, prompt, at: at)
    try fleet.b.perform(.pace(.init()))
    let result = try fleet.b.generate(prompt, generate: generate, hint: "A")
    round.identical = result.tokens == golden[index(of: prompt)].tokens
    round.expect(round.identical, "B's tokens are wrong after the storm")
  }

  /// Judged when everything that B had to tell has been read.
  private func prove(_ round: inout ChaosRound, _ prompt: [Int32], at fault: Int64) {
    fleet.b.collect()
    let landed = fleet.b.landedBytes(at: fault)
    let bytes = blocks(prompt) * blockBytes
    round.is_proved = fleet.b.wasInFlight(at: fault) && landed < bytes
    round.landed_share = Double(landed) / Double(bytes)
  }

  private static func wait(seconds: Double) { usleep(UInt32(seconds * 1e6)) }

  private static func residentMB(_ pid: Int32) -> Int? {
    let pages = (ProcFile.text("/proc/\(pid)/statm") ?? "").split(separator: " ")
    return pages.count > 1 ? Int(pages[1]).map { $0 * 4096 / (1 << 20) } : nil
  }
}

import Foundation
import Processes
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

/// The scenes in which something dies, stops, or lies while transfers are in flight.
extension Scenes {
  /// Starts a paced pull by B and returns when `share` of it has landed.
  ///
  /// Where a machine has too much to do, A may be so slow to answer that B rightly gives the pull up before:
  /// then there is nothing for a fault to fall into, and it is begun again.
  ///
  /// - Parameters:
  ///   - prepare: Puts B's caches into the state that the pull is to find; nil: empties them.
  ///   - isTime: What else must hold before the fault may come; asked until it does.
  @discardableResult
  static func beginPull(
    _ stage: Stage, share: Double, prepare: (() throws -> Void)? = nil,
    isTime: () throws -> Bool = { true }
  ) throws -> UInt64 {
    for attempt in 1... {
      try stage.fillA()
      if let prepare { try prepare() } else { try stage.fleet.b.dropCaches() }
      try stage.setPace(true)
      try stage.startTrace()
      let id = try stage.fleet.b.begin(stage.prompts[0], generate: stage.generate, hint: "A")
      if try stage.waitForLanded(share: share), try stage.waitInPull(until: isTime) { return id }
      let result = try stage.fleet.b.result(of: id)
      guard attempt < 3, result.reasons == ["stalled"],
        result.tokens == stage.golden[0].tokens
      else {
        throw SceneFailure("a pull was given up before the fault: \(result.reasons)")
      }
      stage.say("A was too slow, and the pull was given up: begun again")
    }
    preconditionFailure("the third attempt returns or throws")
  }

  /// Proves that the fault fell into the transfer, on the one clock that all processes share.
  private static func prove(
    _ report: inout SceneReport, _ stage: Stage, at fault: Int64
  ) throws {
    let landed = stage.landedBytes(at: fault)
    report.fault_proved = stage.wasInFlight(at: fault) && landed < stage.bytes
    report.expect(
      report.fault_proved == true,
      "the fault was not proved: \(landed) of \(stage.bytes) bytes had landed")
    report.pull_s = stage.pullSeconds
    report.bytes = try stage.movedBytes()
  }

  private static func addTimes(
    _ report: inout SceneReport, _ result: ConsoleResult, fault: Int64
  ) {
    if let settled = result.settledAt {
      report.fault_to_settle_s = Double(settled - fault) / 1e9
    }
  }

  /// A's store is killed.
  static func killed(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("killed")
    let id = try beginPull(stage, share: 0.4)
    let store = try stage.fleet.nodeProcesses("A")
    store.signal(SIGKILL)
    report.expect(store.hasEnded(waiting: 5_000), "A's store did not die")
    let fault = stage.now()
    let result = try stage.fleet.b.result(of: id)
    try prove(&report, stage, at: fault)
    report.add(result, golden: stage.golden[0])
    addTimes(&report, result, fault: fault)
    // Paced transfers land in order, one at a time: the group keeps what the slowest rank had.
    let leading =
      stage.fleet.settings.rankCount == 1
      ? stage.leadingLanded(at: result.settledAt ?? .max)
      : (try stage.movedByRank().min() ?? 0) / stage.blockBytes
    let proved = leading * stage.tokensPerBlock
    report.outcome = "kept what digests prove"
    report.expect(
      result.keptTokens == proved && proved > 0,
      "\(result.keptTokens) tokens were kept, \(proved) had landed")
    report.expect(
      report.fault_to_settle_s ?? 1 <= 0.150,
      "settled \(Int((report.fault_to_settle_s ?? 1) * 1e3)) ms after the death")
    report.expectIdentical()
    try stage.setPace(false)
    try stage.fillA()
    return report
  }

  /// A's store is stopped: it neither answers nor refuses.
  static func stopped(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("stopped")
    let id = try beginPull(stage, share: 0.4)
    let store = try stage.fleet.nodeProcesses("A")
    store.signal(SIGSTOP)
    try stage.fleet.poll("A's store is stopped", seconds: 5) { store.isStopped }
    let fault = stage.now()
    let result = try stage.fleet.b.result(of: id)
    try prove(&report, stage, at: fault)
    report.add(result, golden: stage.golden[0])
    addTimes(&report, result, fault: fault)
    let quarantined = try stage.fleet.b.audit().quarantined
    report.expect(store.isStopped, "A's store was not stopped throughout")
    report.expect(quarantined > 0, "nothing was quarantined while A was stopped")
    report.outcome = "hedged: the source stalled"
    report.expect(
      result.reasons == ["stalled"], "the reasons were \(result.reasons)")
    if let due = result.dueAt, let step = result.firstRecomputeAt {
      let late = Double(step - due) / 1e9
      report.notes.append(
        String(
          format: "first recomputed step %.1f ms after the stall; longest step %.1f ms",
          late * 1e3, (report.step_max_s ?? 0) * 1e3))
      report.expect(late <= report.step_max_s ?? 0, "the recompute began a step too late")
    } else {
      report.expect(false, "no stall, or no recompute, was seen")
    }
    report.expectIdentical()
    store.signal(SIGKILL)
    report.expect(store.hasEnded(waiting: 5_000), "A's store did not die")
    let died = stage.now()
    try stage.fleet.poll("B's quarantine is empty", seconds: 2) {
      try stage.fleet.b.audit().quarantined == 0
    }
    report.notes.append(
      String(
        format: "%d blocks were quarantined; all back %.0f ms after A's death", quarantined,
        Double(stage.now() - died) / 1e6))
    try stage.setPace(false)
    try stage.fillA()
    return report
  }

  /// A's engine is killed: the store serves on, and the pull completes.
  static func engineKilled(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("engine killed")
    let id = try beginPull(stage, share: 0.3)
    let before = try stage.fleet.a.audit().storeIncarnation
    let died = stage.fleet.killEngine("A")
    report.expect(died != nil, "A's engine did not die")
    let fault = died ?? stage.now()
    let result = try stage.fleet.b.result(of: id)
    try prove(&report, stage, at: fault)
    report.add(result, golden: stage.golden[0])
    report.outcome = "all kept"
    expectAllKept(&report, result, stage)
    try stage.setPace(false)
    try stage.fleet.start("A")
    try stage.fleet.waitUntilReady("A", peer: "B")
    let after = try stage.fleet.a.audit().storeIncarnation
    report.expect(before == after, "the new engine did not attach to the store that was there")
    // Its G1 is empty; the store's blocks come back through the mapping.
    let warm = try stage.fleet.a.generate(stage.prompts[0], generate: 1)
    report.expect(
      warm.reloadedTokens == stage.blocks * stage.tokensPerBlock,
      "the warm restart reloaded \(warm.reloadedTokens) tokens")
    return report
  }

  /// The lease ends and A reuses the slots during the read.
  static func late(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("late")
    // A's G1 needs the stranger's blocks, to overwrite slots with.
    _ = try stage.fleet.a.generate(stage.stranger, generate: 1)
    try stage.fleet.poll("A saved", seconds: 20) { try stage.fleet.a.audit().saving == 0 }
    let result = try lateReadToTheEnd(stage, &report, proof: "onFailure")
    report.add(result, golden: stage.golden[0])
    report.outcome = "digests decided"
    report.expect(
      result.reasons == ["notIntact"] && result.keptTokens < stage.blocks * stage.tokensPerBlock,
      "\(result.keptTokens) tokens were kept: \(result.reasons)")
    report.expect(
      stage.landedBytes() == stage.bytes,
      "the transfers did not all succeed: \(stage.landedBytes()) of \(stage.bytes) bytes")
    report.expectIdentical()
    // Without proof the same reads give other results: the check above can fail.
    var unproven = SceneReport("late")
    let wrong = try lateReadToTheEnd(stage, &unproven, proof: "unsafelyTrusting")
    report.expect(
      wrong.kvDigest != stage.golden[0].kvDigest
        && wrong.logitsDigest != stage.golden[0].logitsDigest,
      "believing every landing did no harm, so the scene proves nothing")
    report.notes.append(
      "without confirm and digests: kept \(wrong.keptTokens) tokens, KV and logits differ"
        + (wrong.tokens != stage.golden[0].tokens ? ", tokens differ" : ""))
    report.notes += unproven.notes
    try stage.fleet.b.perform(.proof(policy: "onFailure"))
    try stage.fleet.a.perform(.drop(.init(store: true)))
    try stage.fleet.b.dropCaches()
    try stage.fillA()
    return report
  }

  /// A read that outlives its lease and goes on to its last block. On a machine with too much to do A may be
  /// so slow that B rightly gives the read up before; then there was no late read, and it is done again.
  private static func lateReadToTheEnd(
    _ stage: Stage, _ report: inout SceneReport, proof: String
  ) throws -> ConsoleResult {
    for _ in 1...2 {
      var attempt = report
      let result = try lateRead(stage, &attempt, proof: proof)
      guard result.reasons == ["stalled"] else {
        report = attempt
        return result
      }
      report.notes.append("A was too slow, and the read was given up: done again")
      try stage.fleet.poll("B's quarantine is empty", seconds: 10) {
        try stage.fleet.b.audit().quarantined == 0
      }
    }
    return try lateRead(stage, &report, proof: proof)
  }

  private static func lateRead(
    _ stage: Stage, _ report: inout SceneReport, proof: String
  ) throws -> ConsoleResult {
    let (a, b) = (stage.fleet.a, stage.fleet.b)
    try a.perform(.drop(.init(store: true)))
    try stage.fillA()
    try b.perform(.proof(policy: proof))
    try b.perform(.renewals(false))
    try b.perform(.leaseTTL(seconds: 0.2))
    try b.dropCaches()
    try stage.setPace(true)
    try stage.startTrace()
    let id = try b.begin(stage.prompts[0], generate: stage.generate, hint: "A")
    func restore() throws {
      try stage.setPace(false)
      try b.perform(.leaseTTL(seconds: nil))
      try b.perform(.renewals(true))
    }
    guard try stage.waitForLanded(share: 0.1) else {
      let result = try b.result(of: id)
      try restore()
      return result
    }
    try stage.fleet.poll("B's lease has ended", seconds: 5) { try a.audit().storeLeases == 0 }
    try a.perform(.drop(.init(store: true)))
    let saved = try a.perform(.save(prompt: stage.stranger)) ?? 0
    try stage.fleet.poll("A reused the slots", seconds: 5) { try a.audit().saving == 0 }
    let fault = stage.now()
    let result = try b.result(of: id)
    try prove(&report, stage, at: fault)
    let sealed = try a.audit().storeSealed ?? 0
    report.expect(
      saved >= stage.blocks && sealed >= stage.blocks,
      "A was to reuse \(stage.blocks) slots and filled \(sealed)")
    addTimes(&report, result, fault: fault)
    try restore()
    return result
  }

  /// B's engine is killed with reads in flight, ten times: A must not mind.
  static func targetKilled(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("target killed")
    let ttl = 1.0
    var slowest = 0.0
    var proofs = 0
    var replaced = 0
    let rounds = 10
    for round in 1...rounds {
      stage.say("target killed \(round)/\(rounds)")
      try stage.fleet.b.perform(.leaseTTL(seconds: ttl))
      _ = try beginPull(stage, share: 0.2)
      let before = try stage.fleet.a.audit().storeIncarnation
      let fault = stage.now()
      report.expect(stage.fleet.killEngine("B") != nil, "B's engine did not die")
      if stage.wasInFlight(at: fault), stage.landedBytes(at: fault) < stage.bytes { proofs += 1 }
      try stage.fleet.poll("A's leases are back", seconds: ttl + 1) {
        try stage.fleet.a.audit().storeLeases == 0
      }
      slowest = max(slowest, Double(stage.now() - fault) / 1e9)
      // A store that UCX aborted comes back empty: its leases ended another way.
      if try stage.fleet.a.audit().storeIncarnation != before { replaced += 1 }
      let served = try stage.fleet.a.generate(stage.prompts[0], generate: 1)
      report.expect(
        served.tokens.first == stage.golden[0].tokens.first,
        "A answered wrongly after round \(round)")
      try stage.fleet.start("B")
      try stage.fleet.waitUntilReady("B", peer: nil)
      try stage.fillA()
    }
    report.fault_proved = proofs == rounds
    report.expect(proofs == rounds, "\(proofs) of \(rounds) kills fell into a transfer")
    report.notes.append(
      String(
        format:
          "%d kills; A's leases back after at most %.2f s (TTL %.1f s); A's store died %d times",
        rounds, slowest, ttl, replaced))
    try stage.fleet.b.dropCaches()
    try stage.startTrace()
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    report.bytes = try stage.movedBytes()
    report.add(result, golden: stage.golden[0])
    report.outcome = "A serves on"
    expectAllKept(&report, result, stage)
    return report
  }
}

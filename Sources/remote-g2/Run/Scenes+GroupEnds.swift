import Foundation
import Processes
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

/// One rank of a group dies or stops: the group ends, its store serves on, its leases come back.
extension Scenes {
  private static let leaseSeconds = 1.0
  private static let endSeconds = 10.0

  static func ends(
    _ stage: Stage, _ name: String, rank: Int, with signal: Int32
  ) throws -> SceneReport {
    var report = SceneReport(name)
    let fleet = stage.fleet
    // Only B's store has these blocks; each scene has its own.
    let own = Array(
      stage.prompts[0].reversed().dropFirst(Int(signal)).prefix(5 * stage.tokensPerBlock + 1))
    var alone: ConsoleResult?
    let logged = text(of: fleet, "B").utf8.count
    try fleet.b.perform(.leaseTTL(seconds: leaseSeconds))
    let incarnation = try fleet.b.audit().storeIncarnation
    let ranks = fleet.rankProcesses("B")
    let mpirun = fleet.b.process
    guard ranks.count == fleet.settings.rankCount, ranks.count > rank else {
      throw SceneFailure("B has \(ranks.count) rank processes")
    }
    let others = ranks.indices.filter { $0 != rank }.map { ranks[$0] }
    var (leases, inFlight) = (0, [Int]())
    let prepare = {
      try fleet.b.dropCaches()
      alone = try fleet.b.generate(own, generate: 1)
      try fleet.poll("B saved its blocks", seconds: 20) { try fleet.b.audit().saving == 0 }
    }
    // Between a landing and the next post a paced rank has nothing in flight. What is in flight is looked at
    // last, and nothing stands between the look and the fault.
    try beginPull(stage, share: 0.2, prepare: prepare) {
      leases = try fleet.a.audit().storeLeases ?? 0
      inFlight = try fleet.b.audit().ranks.map(\.transfersInFlight)
      return inFlight[rank] > 0
    }
    let areWell = others.allSatisfy { $0.stateLetter.map { !"TZ".contains($0) } ?? false }
    ranks[rank].signal(signal)
    if signal == SIGSTOP {
      try fleet.poll("B's rank is stopped", seconds: 2) { ranks[rank].stateLetter == "T" }
    }
    let fault = stage.now()
    let isGone = (ranks + [mpirun]).allSatisfy {
      $0.hasEnded(waiting: Int32(max(0, endSeconds - seconds(since: fault, stage)) * 1000))
    }
    let took = seconds(since: fault, stage)
    report.fault_proved = leases > 0 && areWell && inFlight[rank] > 0
    report.expect(
      report.fault_proved == true,
      "\(leases) leases were open, in flight by rank: \(inFlight); others well: \(areWell)")
    report.expect(isGone && took <= endSeconds, "after \(took) s a process of the group was left")
    report.expect(
      mpirun.exitStatus.map { $0 != 0 } == true,
      "the group ended with \(mpirun.exitStatus.map(String.init) ?? "no status")")
    let said = String(text(of: fleet, "B").utf8.dropFirst(logged)) ?? ""
    // The one that was killed is named; one that stopped is missed by the others.
    let isNamed =
      signal == SIGKILL
      ? said.contains("process rank \(rank) ") && said.contains("signal 9")
      : said.contains("no word from its group") && !said.contains("rank \(rank): no word")
    report.expect(isNamed, "its message was: \(said.suffix(300))")
    try fleet.poll("A's leases are back", seconds: leaseSeconds + 1) {
      try fleet.a.audit().storeLeases == 0
    }
    report.notes.append(
      String(
        format: "the group was gone after %.2f s, A's leases were back after %.2f s", took,
        seconds(since: fault, stage)))
    // The dead group's store serves on.
    let served = try fleet.a.generate(own, generate: 1, hint: "B")
    report.expect(
      served.keptTokens == own.count - 1 && served.tokens == alone?.tokens
        && served.logitsDigest == alone?.logitsDigest,
      "B's store did not serve: A kept \(served.keptTokens) of \(own.count - 1) tokens")
    try fleet.start("B")
    try fleet.waitUntilReady("B", peer: nil)
    report.expect(
      try fleet.b.audit().storeIncarnation == incarnation, "B's store was replaced")
    try fleet.b.dropCaches()
    try stage.fillA()
    try stage.startTrace()
    let result = try fleet.b.generate(stage.prompts[0], generate: stage.generate, hint: "A")
    report.bytes = try stage.movedBytes()
    report.add(result, golden: stage.golden[0])
    expectAllKept(&report, result, stage)
    report.outcome = "B ended, and came back"
    return report
  }

  private static func seconds(since instant: Int64, _ stage: Stage) -> Double {
    Double(stage.now() - instant) / 1e9
  }

  private static func text(of fleet: Fleet, _ name: String) -> String {
    ProcFile.text(fleet.log(of: name)) ?? ""
  }
}

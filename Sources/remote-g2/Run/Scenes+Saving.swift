import Foundation
import Processes
import RemoteG2Runtime
import WorkerConsole

/// The scenes that show that what a worker computes is soon in its store, whatever became of the store.
/// They are played when they are named.
extension Scenes {
  static let saving: [(name: String, scene: Scene)] = [
    ("right after ready", rightAfterReady), ("saved again", savedAgain),
  ]

  /// A is started anew and computes a prompt as soon as it says `ready`; B pulls it whole.
  static func rightAfterReady(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("right after ready")
    let store = try stage.fleet.nodeProcesses("A")
    store.signal(SIGKILL)
    report.expect(
      stage.fleet.killEngine("A") != nil && store.hasEnded(waiting: 5_000), "A did not die")
    try stage.fleet.start("A")
    try stage.fleet.a.waitUntilReady()
    let computed = try stage.fleet.a.generate(stage.prompts[0], generate: 1)
    report.fault_proved = computed.computedTokens == stage.prompts[0].count
    report.expect(report.fault_proved == true, "A had something of the prompt left")
    try pullWhole(&report, stage)
    return report
  }

  /// A's store is killed, and the prompt that A has in its G1 is asked of it once more; within five seconds
  /// B pulls it whole from the store that took the dead one's place.
  static func savedAgain(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("saved again")
    _ = try stage.fleet.a.generate(stage.prompts[0], generate: 1)
    let store = try stage.fleet.nodeProcesses("A")
    store.signal(SIGKILL)
    report.expect(store.hasEnded(waiting: 5_000), "A's store did not die")
    let asked = stage.now()
    let again = try stage.fleet.a.generate(stage.prompts[0], generate: 1)
    report.fault_proved = again.cachedTokens == stage.blocks * stage.tokensPerBlock
    report.expect(report.fault_proved == true, "A had lost its G1: nothing had to be offered again")
    let pulled = try pullWhole(&report, stage)
    let seconds = Double(pulled - asked) / 1e9
    report.notes.append(String(format: "pulled whole %.2f s after it was asked once more", seconds))
    report.expect(seconds <= 5, String(format: "it took %.2f s", seconds))
    return report
  }

  /// When B had it whole: at its first token, whatever the tokens after it take.
  @discardableResult
  private static func pullWhole(_ report: inout SceneReport, _ stage: Stage) throws -> Int64 {
    try stage.fleet.poll("A's store has the prompt", seconds: 10) {
      try stage.fleet.a.audit().storeSealed ?? 0 >= stage.blocks
    }
    // Until B has met the store that lives now, it computes: so it is asked for little at first.
    let little = Array(stage.prompts[0].prefix(5 * stage.tokensPerBlock + 1))
    try stage.fleet.poll("B pulls from A's store", seconds: 10) {
      try stage.fleet.b.dropCaches()
      return try stage.fleet.b.generate(little, generate: 1, hint: "A").keptTokens > 0
    }
    try stage.fleet.b.dropCaches()
    let begun = stage.now()
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    report.add(result, golden: stage.golden[0])
    report.outcome = "all kept"
    expectAllKept(&report, result, stage)
    guard let ttft = result.ttftSeconds else { throw SceneFailure("B gave no token") }
    return begun + Int64(ttft * 1e9)
  }
}

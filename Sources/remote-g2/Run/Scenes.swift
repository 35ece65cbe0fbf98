import Foundation
import Processes
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

/// The scenes without a fault, and the table of all of them.
enum Scenes {
  typealias Scene = @Sendable (Stage) throws -> SceneReport

  static let all: [(name: String, scene: Scene)] = [
    ("cold A", coldA), ("cold B", coldB), ("local", local), ("pull", pull), ("killed", killed),
    ("stopped", stopped), ("engine killed", engineKilled), ("restarted", restarted),
    ("gone", gone), ("late", late), ("target killed", targetKilled),
  ]

  /// A computes, seals, and fills its store.
  static func coldA(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("cold A")
    // There is nothing to compare with yet: `compareFirst` does it once there is.
    report.isUncompared()
    let a = stage.fleet.a
    // The stranger first: its blocks stay in A's G1, to overwrite slots with later.
    let stranger = try a.generate(stage.stranger, generate: 1)
    report.expect(stranger.computedTokens == stage.stranger.count, "the stranger was not computed")
    try stage.fleet.poll("A saved the stranger", seconds: 20) { try a.audit().saving == 0 }
    try a.perform(.drop(.init(store: true)))
    for prompt in stage.prompts {
      let result = try a.generate(prompt, generate: stage.generate)
      stage.firstResults.append(result)
      report.add(result, golden: nil)
    }
    try stage.fillA()
    report.outcome = "computed, stored"
    let audit = try a.audit()
    report.expect(
      audit.storeSealed ?? 0 >= stage.blocks, "A's store holds \(audit.storeSealed ?? 0) blocks")
    return report
  }

  /// Compares what A computed first with the golden run, which came after it.
  static func compareFirst(_ report: inout SceneReport, _ stage: Stage) {
    report.tokens_identical = stage.firstResults.map(\.tokens) == stage.golden.map(\.tokens)
    report.logits_identical =
      stage.firstResults.map(\.logitsDigest) == stage.golden.map(\.logitsDigest)
    report.kv_identical = stage.firstResults.map(\.kvDigest) == stage.golden.map(\.kvDigest)
    report.expectIdentical()
  }

  /// B computes alone: what every other scene is compared with.
  static func coldB(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("cold B")
    for prompt in stage.prompts.reversed() {
      try stage.fleet.b.dropCaches()
      let result = try stage.fleet.b.generate(prompt, generate: stage.generate)
      report.expect(result.computedTokens == prompt.count, "the golden run reused something")
      stage.golden.insert(result, at: 0)
    }
    report.add(stage.golden[0], golden: nil)
    report.prompt_tokens = stage.prompts.map(\.count).reduce(0, +)
    report.tokens_recomputed = report.prompt_tokens
    report.outcome = "computed (golden)"
    return report
  }

  /// B reloads from its own store's mapping.
  static func local(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("local")
    try stage.fleet.poll("B saved its blocks", seconds: 20) {
      let audit = try stage.fleet.b.audit()
      return audit.saving == 0 && audit.storeSealed ?? 0 >= stage.blocks
    }
    try stage.fleet.b.dropCaches(store: false)
    let result = try stage.fleet.b.generate(stage.prompts[0], generate: stage.generate)
    report.add(result, golden: stage.golden[0])
    report.bytes = result.reloadedTokens / stage.tokensPerBlock * stage.blockBytes
    report.outcome = "all kept"
    report.expect(
      result.reloadedTokens == stage.blocks * stage.tokensPerBlock,
      "\(result.reloadedTokens) tokens were reloaded")
    report.expect(result.reasons.isEmpty, "it fell back: \(result.reasons)")
    report.expectIdentical()
    return report
  }

  /// B pulls all three prompts from A; what they share is pulled once.
  static func pull(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("pull")
    try stage.fleet.b.dropCaches()
    try stage.startTrace()
    for (index, prompt) in stage.prompts.enumerated() {
      let result = try stage.fleet.b.generate(prompt, generate: stage.generate, hint: "A")
      if index == 0 {
        // Until the group knew that every rank has everything.
        let posted = stage.fleet.b.trace.map(\.at).min()
        let landed = stage.fleet.b.trace.filter { $0.moment == "landed" }.map(\.at).max()
        if let posted, let landed, let settled = result.settledAt {
          report.pull_s = Double(settled - posted) / 1e9
          report.notes.append(
            String(
              format: "settled %.2f ms after the last landing on rank 0",
              Double(settled - landed) / 1e6))
        }
        report.bytes = try stage.movedBytes()
      } else {
        let shared = zip(prompt, stage.prompts[0]).prefix { $0 == $1 }.count
        let sharedTokens = shared / stage.tokensPerBlock * stage.tokensPerBlock
        report.expect(
          result.cachedTokens >= sharedTokens,
          "prompt \(index + 1) found \(result.cachedTokens) of \(sharedTokens) shared tokens")
      }
      let loadable = (prompt.count - 1) / stage.tokensPerBlock * stage.tokensPerBlock
      report.expect(
        result.cachedTokens + result.keptTokens == loadable && result.reasons.isEmpty,
        "prompt \(index + 1) kept \(result.keptTokens) of \(loadable - result.cachedTokens): "
          + "\(result.reasons)")
      report.add(result, golden: stage.golden[index])
    }
    report.outcome = "all kept"
    report.expectIdentical()
    return report
  }

  /// A comes back at the same addresses; B, which was not restarted, pulls again.
  static func restarted(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("restarted")
    let before = try stage.fleet.a.audit().storeIncarnation
    let store = try stage.fleet.nodeProcesses("A")
    store.signal(SIGKILL)
    report.expect(
      stage.fleet.killEngine("A") != nil && store.hasEnded(waiting: 5_000), "A did not die")
    let died = stage.now()
    try stage.fleet.start("A")
    try stage.fleet.waitUntilReady("A", peer: "B")
    report.notes.append(
      String(format: "A was back after %.1f s", Double(stage.now() - died) / 1e9))
    let warm = try stage.fleet.a.generate(stage.prompts[0], generate: stage.generate)
    report.expect(warm.tokens == stage.golden[0].tokens, "A's own tokens differ after its restart")
    try stage.fillA()
    let after = try stage.fleet.a.audit().storeIncarnation
    report.fault_proved = before != nil && after != nil && before != after
    report.expect(report.fault_proved == true, "A's store has the same incarnation")
    try stage.fleet.b.dropCaches()
    try stage.startTrace()
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    report.pull_s = stage.pullSeconds
    report.bytes = try stage.movedBytes()
    report.add(result, golden: stage.golden[0])
    report.outcome = "all kept"
    expectAllKept(&report, result, stage)
    return report
  }

  /// The hint names blocks that A has evicted.
  static func gone(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("gone")
    try stage.fleet.b.dropCaches()
    try stage.fleet.a.perform(.drop(.init(store: true)))
    let audit = try stage.fleet.a.audit()
    report.fault_proved = audit.storeSealed == 0
    report.expect(report.fault_proved == true, "A still holds \(audit.storeSealed ?? -1) blocks")
    stage.fleet.b.clearTrace()
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    report.add(result, golden: stage.golden[0])
    report.outcome = "gone: computed"
    report.expect(result.pulledTokens == 0, "\(result.pulledTokens) tokens were pulled")
    let reasons = stage.fleet.b.fetchEvents.filter { $0.kind == "fallback" && $0.peer == "A" }
      .compactMap(\.reason)
    report.expect(reasons == ["gone"], "the reasons were \(reasons)")
    report.expectIdentical()
    try stage.fillA()
    return report
  }

  static func expectAllKept(_ report: inout SceneReport, _ result: ConsoleResult, _ stage: Stage) {
    let wanted = stage.blocks * stage.tokensPerBlock
    report.expect(
      result.keptTokens == wanted && result.reasons.isEmpty,
      "\(result.keptTokens) of \(wanted) tokens were kept: \(result.reasons)")
    report.expectIdentical()
  }
}

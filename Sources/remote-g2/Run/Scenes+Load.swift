import Foundation
import Processes
import RemoteG2Runtime
import WorkerConsole

/// The scenes that show what a loaded machine does to pulls, and pulls to others. They are played when
/// they are named.
extension Scenes {
  static let load: [(name: String, scene: Scene)] = [
    ("fifty pulls", fiftyPulls), ("twenty stops", twentyStops), ("six at once", sixAtOnce),
    ("beside a prefill", besideAPrefill),
  ]

  /// The blocks of G1 and the slots of a store that these scenes need.
  static let loadBlocks = 1_200
  private static let loopCount = 4
  private static let longTokens = 1_900

  /// B pulls one prompt again and again, while four busy loops run beside it.
  static func fiftyPulls(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("fifty pulls")
    let count = 50
    let wanted = count * stage.blocks * stage.tokensPerBlock
    var kept = 0
    var reasons: [String: Int] = [:]
    try stage.fleet.b.dropCaches()
    let golden = try stage.fleet.b.generate(stage.prompts[0], generate: 1)
    try BusyLoops.beside(loopCount) {
      for _ in 1...count {
        try stage.fleet.b.dropCaches()
        let result = try stage.fleet.b.generate(stage.prompts[0], generate: 1, hint: "A")
        report.add(result, golden: golden)
        kept += result.keptTokens
        for reason in result.reasons { reasons[reason, default: 0] += 1 }
      }
    }
    report.outcome = "kept"
    report.expectShare(kept, of: wanted, reasons)
    report.expectIdentical()
    return report
  }

  /// A's store is stopped in the middle of a pull, twenty times, while four busy loops run beside it.
  static func twentyStops(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("twenty stops")
    let prompt = Array(stage.prompts[0].prefix(25 * stage.tokensPerBlock + 1))
    let bytes = 25 * stage.blockBytes
    try stage.fleet.b.dropCaches()
    let golden = try stage.fleet.b.generate(prompt, generate: 1)
    let store = try stage.fleet.nodeProcesses("A")
    var times: [Double] = []
    report.fault_proved = true
    try stage.fillA()
    try stage.startTrace()
    try stage.fleet.b.perform(
      .pace(.init(bytesPerSecond: Double(stage.blockBytes) / 0.015, transferBlocks: 1)))
    try BusyLoops.beside(loopCount) {
      for round in 1...20 {
        try stage.fleet.b.dropCaches()
        stage.fleet.b.clearTrace()
        stage.say("stop \(round)/20")
        let id = try stage.fleet.b.begin(prompt, generate: 1, hint: "A")
        _ = try stage.fleet.b.wait("the pull to be under way", seconds: 30) {
          stage.landedBytes() >= bytes / 4 && stage.wasInFlight(at: .max) ? true : nil
        }
        store.signal(SIGSTOP)
        try stage.fleet.poll("A's store is stopped", seconds: 5) { store.isStopped }
        let fault = stage.now()
        let result = try stage.fleet.b.result(of: id)
        let isProved = stage.landedBytes(at: fault) < bytes && stage.wasInFlight(at: fault)
        if !isProved { report.fault_proved = false }
        report.add(result, golden: golden)
        report.expect(isProved, "stop \(round) was not proved")
        report.expect(
          result.reasons == ["stalled"], "stop \(round): the reasons were \(result.reasons)")
        times.append(result.settledAt.map { Double($0 - fault) / 1e9 } ?? .infinity)
        store.signal(SIGCONT)
        try stage.fleet.poll("B's quarantine is empty", seconds: 10) {
          try stage.fleet.b.audit().quarantined == 0
        }
        try stage.fleet.waitUntilConnected("B", peer: "A")
      }
    }
    try stage.setPace(false)
    times.sort()
    let inTime = times.count { $0 <= 1 }
    report.outcome = "given up"
    report.notes.append(
      String(
        format: "%d of %d given up within 1 s: median %.0f ms, longest %.0f ms", inTime,
        times.count,
        times[times.count / 2] * 1e3, (times.last ?? 0) * 1e3))
    report.expect(inTime == 20, "\(inTime) of 20 were given up within 1 s")
    report.expectIdentical()
    return report
  }

  /// B pulls six prefixes of 1,900 tokens at once.
  static func sixAtOnce(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("six at once")
    let prompts = (0..<6).map { stage.text(longTokens, from: $0) }
    let golden = try fill(stage, prompts)
    try stage.fleet.b.dropCaches()
    let ids = try prompts.map { try stage.fleet.b.begin($0, generate: 1, hint: "A") }
    var kept = 0
    var reasons: [String: Int] = [:]
    for (place, id) in ids.enumerated() {
      let result = try stage.fleet.b.result(of: id)
      report.add(result, golden: golden[place])
      kept += result.keptTokens
      for reason in result.reasons { reasons[reason, default: 0] += 1 }
    }
    report.outcome = "kept"
    let each = (longTokens - 1) / stage.tokensPerBlock * stage.tokensPerBlock
    report.expectShare(kept, of: 6 * each, reasons)
    report.expectIdentical()
    return report
  }

  /// B pulls eight prefixes at once: alone, and together with the prefill of a long prompt.
  static func besideAPrefill(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("beside a prefill")
    let prompts = (0..<8).map { stage.text(592 + 8, from: 10 + $0) }
    let golden = try fill(stage, prompts)
    let long = stage.text(longTokens, from: 30)
    var (single, alone, beside): ([Double], [Double], [Double]) = ([], [], [])
    func pullAll() throws -> [Double] {
      let ids = try prompts.map { try stage.fleet.b.begin($0, generate: 1, hint: "A") }
      return try zip(ids, golden).map { id, golden in
        let result = try stage.fleet.b.result(of: id)
        report.add(result, golden: golden)
        report.expect(
          result.keptTokens == 592 && result.reasons.isEmpty,
          "\(result.keptTokens) of 592 tokens were pulled: \(result.reasons)")
        return result.ttftSeconds ?? .infinity
      }
    }
    // Memory that was never written is slower: once before it counts.
    try stage.fleet.b.dropCaches()
    _ = try pullAll()
    for _ in 1...3 {
      try stage.fleet.b.dropCaches()
      single += [
        try stage.fleet.b.generate(prompts[0], generate: 1, hint: "A").ttftSeconds ?? .infinity
      ]
      try stage.fleet.b.dropCaches()
      alone += try pullAll()
      try stage.fleet.b.dropCaches()
      let prefill = try stage.fleet.b.begin(long, generate: 1, hint: nil)
      beside += try pullAll()
      let result = try stage.fleet.b.result(of: prefill)
      report.expect(
        result.computedTokens == long.count, "the prefill computed \(result.computedTokens) tokens")
      // Otherwise it was over before the others came.
      report.expect(
        (result.ttftSeconds ?? 0) > (beside.suffix(8).max() ?? 0),
        "the prefill was the first to end")
    }
    func p95(_ values: [Double]) -> Double { values.sorted()[(values.count * 95 + 99) / 100 - 1] }
    let ratio = p95(beside) / p95(alone)
    report.notes.append(
      String(
        format:
          "p95 TTFT of eight pulled prefixes: alone %.0f ms, beside the prefill %.0f ms (%.2f); "
          + "one by itself %.0f ms",
        p95(alone) * 1e3, p95(beside) * 1e3, ratio, p95(single) * 1e3))
    report.outcome = "pulled first"
    report.expect(
      ratio <= 3, String(format: "beside the prefill they took %.2f times as long", ratio))
    report.expectIdentical()
    return report
  }

  /// A computes the prompts, and its store has them.
  private static func fill(_ stage: Stage, _ prompts: [[Int32]]) throws -> [ConsoleResult] {
    let a = stage.fleet.a
    try a.dropCaches()
    let results = try prompts.map { try a.generate($0, generate: 1) }
    try stage.fleet.poll("A saved the prompts", seconds: 20) {
      let audit = try a.audit()
      return audit.saving == 0
        && audit.storeSealed ?? 0 >= prompts.reduce(0) { $0 + $1.count / stage.tokensPerBlock }
    }
    return results
  }
}

extension SceneReport {
  fileprivate mutating func expectShare(_ kept: Int, of wanted: Int, _ reasons: [String: Int]) {
    let share = Double(kept) / Double(wanted)
    notes.append(
      String(format: "%d of %d tokens were kept, %.2f %%", kept, wanted, share * 100)
        + (reasons.isEmpty ? "" : "; reasons: \(reasons)"))
    expect(share >= 0.99, String(format: "%.2f %% of the tokens were kept", share * 100))
  }
}

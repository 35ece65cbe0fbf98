import Foundation
import KVTransfer
import RemoteG2Core
import RemoteG2Runtime

/// What only happens to some ranks of a group. All of them must use the same tokens.
extension Scenes {
  /// In the ninth transfer of two blocks, as `RankParts` injects it.
  private static let blocksBefore = 16

  static func rankScenes(_ ranks: Int) -> [(name: String, scene: Scene)] {
    guard ranks > 1 else { return [] }
    let last = ranks - 1
    let some = ranks == 3 ? "two of three fail" : "\(last) of \(ranks) fail"
    return [
      ("one rank fails", { try fails($0, "one rank fails", [1]) }),
      ("one rank hangs", { try hangs($0, [last]) }),
      (some, { try fails($0, some, Array(0..<ranks).filter { $0 != 1 }) }),
      ("all ranks fail", { try fails($0, "all ranks fail", Array(0..<ranks)) }),
      ("source rank's pool corrupt", { try corrupt($0, rank: 1) }),
    ]
  }

  private static func pull(
    _ stage: Stage, _ fault: TransferFault, _ ranks: [Int]
  ) throws -> WireResult {
    try stage.fillA()
    try stage.fleet.b.dropCaches()
    try stage.setPace(true)
    try stage.fleet.b.perform(.fault) {
      $0.fault = fault.rawValue
      $0.ranks = ranks
    }
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    try stage.fleet.b.perform(.fault)
    try stage.setPace(false)
    return result
  }

  /// What the failing ranks had before the fault is what the group keeps: the fault is seen in it.
  private static func judge(
    _ report: inout SceneReport, _ result: WireResult, _ stage: Stage, reason: String
  ) {
    let before = blocksBefore * stage.tokensPerBlock
    report.add(result, golden: stage.golden[0])
    report.fault_proved =
      result.reasons == [reason] && result.keptTokens == before
      && result.pulledTokens == stage.blocks * stage.tokensPerBlock
    report.expect(
      report.fault_proved == true,
      "\(result.keptTokens) of \(result.pulledTokens) tokens were kept, not \(before): "
        + "\(result.reasons)")
    report.expectIdentical()
  }

  private static func fails(
    _ stage: Stage, _ name: String, _ ranks: [Int]
  ) throws -> SceneReport {
    var report = SceneReport(name)
    let result = try pull(stage, .halfComplete, ranks)
    judge(&report, result, stage, reason: "transferFailed")
    report.outcome = "kept the ranks' minimum"
    return report
  }

  private static func hangs(_ stage: Stage, _ ranks: [Int]) throws -> SceneReport {
    var report = SceneReport("one rank hangs")
    let result = try pull(stage, .hang, ranks)
    judge(&report, result, stage, reason: "softDeadline")
    report.outcome = "hedged for all"
    let quarantined = try stage.fleet.b.audit().quarantined
    report.expect(quarantined > 0, "nothing is quarantined while a rank's transfer hangs")
    let store = try stage.fleet.storeProcess("A")
    store.signal(SIGKILL)
    report.expect(store.hasEnded(waiting: 5_000), "A's store did not die")
    try stage.fleet.poll("B's quarantine is empty", seconds: 2) {
      try stage.fleet.b.audit().quarantined == 0
    }
    try stage.fillA()
    return report
  }

  /// One byte of every block that one rank's pool of A holds is turned over, under A's feet.
  private static func corrupt(_ stage: Stage, rank: Int) throws -> SceneReport {
    var report = SceneReport("source rank's pool corrupt")
    try stage.fillA()
    try stage.fleet.b.dropCaches()
    try stage.fleet.b.perform(.proof) { $0.policy = "always" }
    let turned = try turnBytes(stage, rank: rank)
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    report.add(result, golden: stage.golden[0])
    report.fault_proved =
      turned == stage.fleet.settings.slotCount && result.reasons == ["notIntact"]
    report.expect(
      report.fault_proved == true && result.keptTokens == 0,
      "\(turned) bytes were turned, \(result.keptTokens) tokens kept: \(result.reasons)")
    report.outcome = "digests decided"
    report.expectIdentical()
    try stage.fleet.b.perform(.proof) { $0.policy = "onFailure" }
    try stage.fleet.a.perform(.drop) { $0.store = true }
    try stage.fillA()
    return report
  }

  private static func turnBytes(_ stage: Stage, rank: Int) throws -> Int {
    let folder = "/proc/\(try stage.fleet.storeProcess("A").pid)/fd"
    // Made in the order of the ranks.
    let pools = ProcFile.names(in: folder).compactMap { Int($0) }.sorted()
      .filter { "\(folder)/\($0)".resolved.contains("remote-g2-pool") }
    guard pools.count == stage.fleet.settings.rankCount else {
      throw SceneFailure("A's store has \(pools.count) pools")
    }
    let pool = open("\(folder)/\(pools[rank])", O_RDWR | O_CLOEXEC)
    guard pool >= 0 else { throw SceneFailure("A's pool cannot be opened") }
    defer { close(pool) }
    var turned = 0
    for slot in 0..<stage.fleet.settings.slotCount {
      let place = off_t(4096 + slot * stage.blockBytes + 1000)
      var byte: UInt8 = 0
      guard pread(pool, &byte, 1, place) == 1 else { break }
      byte ^= 0x5A
      guard pwrite(pool, &byte, 1, place) == 1 else { break }
      turned += 1
    }
    return turned
  }
}

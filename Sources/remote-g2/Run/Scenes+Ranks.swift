import Foundation
import LocalStore
import Processes
import RemoteG2Core
import RemoteG2Runtime
import TransferRig
import WorkerConsole

/// What only happens to some ranks of a group. All of them must use the same tokens.
extension Scenes {
  /// Of a pull in which a transfer fails when half of it has landed.
  private static let blocksPerTransfer = 2

  static func rankScenes(_ ranks: Int) -> [(name: String, scene: Scene)] {
    guard ranks > 1 else { return [] }
    let last = ranks - 1
    let some = ranks == 3 ? "two of three fail" : "\(last) of \(ranks) fail"
    return [
      ("one rank fails", { try fails($0, "one rank fails", [1]) }),
      ("one rank hangs", { try hangs($0, rank: last) }),
      (some, { try fails($0, some, Array(0..<ranks).filter { $0 != 1 }) }),
      ("all ranks fail", { try fails($0, "all ranks fail", Array(0..<ranks)) }),
      ("source rank's pool corrupt", { try corrupt($0, rank: 1) }),
      ("rank killed", { try ends($0, "rank killed", rank: 1, with: SIGKILL) }),
      ("rank stalls", { try ends($0, "rank stalls", rank: last, with: SIGSTOP) }),
    ]
  }

  /// Pulls with a fault on some ranks. What each rank counted meanwhile tells where it happened.
  private static func fails(
    _ stage: Stage, _ name: String, _ ranks: [Int]
  ) throws -> SceneReport {
    var report = SceneReport(name)
    try stage.fillA()
    try stage.fleet.b.dropCaches()
    try stage.setPace(true, transferBlocks: blocksPerTransfer)
    try stage.fleet.b.perform(
      .fault(.init(TransferFault.halfComplete.rawValue, ranks: ranks)))
    let counted = try stage.fleet.b.audit().ranks.map(\.rigCount)
    let result = try stage.fleet.b.generate(
      stage.prompts[0], generate: stage.generate, hint: "A")
    try stage.fleet.b.perform(.fault(.init()))
    try stage.setPace(false)
    let faults = zip(try stage.fleet.b.audit().ranks.map(\.rigCount), counted).map(-)
    let wanted = (0..<stage.fleet.settings.rankCount).map { ranks.contains($0) ? 1 : 0 }
    report.fault_proved = faults == wanted
    report.expect(
      faults == wanted, "faults by rank were \(faults), and \(wanted) were asked for")
    report.add(result, golden: stage.golden[0])
    // What the failing ranks had before it is what the group keeps.
    let before = TransferRig.brokenTransfer * blocksPerTransfer * stage.tokensPerBlock
    report.expect(
      result.reasons == ["transferFailed"] && result.keptTokens == before
        && result.pulledTokens == stage.blocks * stage.tokensPerBlock,
      "\(result.keptTokens) of \(result.pulledTokens) tokens were kept, not \(before): "
        + "\(result.reasons)")
    report.outcome = "kept the ranks' minimum"
    report.expectIdentical()
    return report
  }

  /// A's store stops when all ranks but one have everything: that one's transfer hangs, on the wire.
  private static func hangs(_ stage: Stage, rank: Int) throws -> SceneReport {
    var report = SceneReport("one rank hangs")
    let b = stage.fleet.b
    try stage.fillA()
    try b.dropCaches()
    try stage.setPace(true, ranks: [rank])
    try stage.startTrace()
    func isAlone(_ bytes: [Int]) -> Bool {
      bytes.enumerated().allSatisfy { ($0 == rank) != ($1 == stage.bytes) }
    }
    let id = try b.begin(stage.prompts[0], generate: stage.generate, hint: "A")
    try stage.fleet.poll("all ranks but \(rank) have everything", seconds: 20) {
      let bytes = try stage.movedByRank()
      return isAlone(bytes) && bytes[rank] >= stage.bytes / 4
    }
    let store = try stage.fleet.nodeProcesses("A")
    store.signal(SIGSTOP)
    try stage.fleet.poll("A's store is stopped", seconds: 5) { store.isStopped }
    let fault = stage.now()
    let atStop = try stage.movedByRank()[rank]
    let result = try b.result(of: id)
    let (bytes, audit) = (try stage.movedByRank(), try b.audit())
    // However long the stop lasts, no more arrives than the one transfer that was posted.
    let window = blocksPerTransfer * stage.blockBytes
    report.fault_proved =
      isAlone(bytes) && store.isStopped && audit.ranks[rank].transfersInFlight > 0
      && bytes[rank] - atStop <= window
    report.expect(
      report.fault_proved == true,
      "rank \(rank) did not hang alone: \(bytes) of \(stage.bytes) bytes, \(audit.ranks)")
    report.add(result, golden: stage.golden[0])
    if let settled = result.settledAt { report.fault_to_settle_s = Double(settled - fault) / 1e9 }
    // What arrived before the stop may have been noticed after it.
    let least = atStop / stage.blockBytes * stage.tokensPerBlock
    let most = bytes[rank] / stage.blockBytes * stage.tokensPerBlock
    report.expect(
      result.reasons == ["stalled"] && least > 0 && (least...most).contains(result.keptTokens),
      "\(result.keptTokens) tokens were kept, rank \(rank) had \(least) to \(most): "
        + "\(result.reasons)")
    report.expect(audit.quarantined > 0, "nothing is quarantined while a transfer hangs")
    report.expectIdentical()
    report.outcome = "hedged for all"
    // It goes on: what hung lands late, on that rank alone, and nobody reads it.
    store.signal(SIGCONT)
    try stage.fleet.poll("B's quarantine is empty", seconds: 10) {
      try b.audit().quarantined == 0
    }
    let late = zip(try b.audit().ranks, audit.ranks).map { $0.bytesLate - $1.bytesLate }
    report.expect(
      late.enumerated().allSatisfy { ($0 == rank) == ($1 > 0) }, "late bytes by rank: \(late)")
    report.notes.append("late bytes by rank, into quarantine: \(late)")
    try stage.setPace(false)
    try stage.fillA()
    return report
  }

  /// One byte of every block that one rank's pool of A holds is turned over, under A's feet.
  private static func corrupt(_ stage: Stage, rank: Int) throws -> SceneReport {
    var report = SceneReport("source rank's pool corrupt")
    try stage.fillA()
    try stage.fleet.b.dropCaches()
    try stage.fleet.b.perform(.proof(policy: "always"))
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
    try stage.fleet.b.perform(.proof(policy: "onFailure"))
    try stage.fleet.a.perform(.drop(.init(store: true)))
    try stage.fillA()
    return report
  }

  private static func turnBytes(_ stage: Stage, rank: Int) throws -> Int {
    let pid = try stage.fleet.nodeProcesses("A").node.pid
    // Mapped in the order of the ranks, each at a lower address than the one before, or a higher one:
    // their files tell which is which.
    let maps = (ProcFile.text("/proc/\(pid)/maps") ?? "").split(separator: "\n")
      .filter { $0.contains("remote-g2-pool") && $0.contains(" rw") }
      .compactMap { line -> (inode: Int, start: UInt64)? in
        let words = line.split(separator: " ", omittingEmptySubsequences: true)
        guard words.count >= 5, let inode = Int(words[4]),
          let start = words[0].split(separator: "-").first.flatMap({ UInt64($0, radix: 16) })
        else { return nil }
        return (inode, start)
      }.sorted { $0.inode < $1.inode }
    guard maps.count == stage.fleet.settings.rankCount else {
      throw SceneFailure("A's store has \(maps.count) pools")
    }
    let memory = open("/proc/\(pid)/mem", O_RDWR | O_CLOEXEC)
    guard memory >= 0 else { throw SceneFailure("A's memory cannot be opened") }
    defer { close(memory) }
    let shape = try PoolShape(
      slotCount: stage.fleet.settings.slotCount, blockBytes: stage.blockBytes)
    var turned = 0
    for slot in 0..<stage.fleet.settings.slotCount {
      let place = off_t(
        Int(maps[rank].start) + shape.slotsOffset + slot * stage.blockBytes + 1000)
      var byte: UInt8 = 0
      guard pread(memory, &byte, 1, place) == 1 else { break }
      byte ^= 0x5A
      guard pwrite(memory, &byte, 1, place) == 1 else { break }
      turned += 1
    }
    return turned
  }
}

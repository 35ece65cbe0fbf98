import Foundation
import Processes
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

/// What an engine costs that has nothing to do but to wait for a source that neither answers nor dies.
extension ChaosStage {
  /// Leaves a fetch in flight from a stopped store, and measures B's engine process, all its threads.
  ///
  /// - Returns: Cores used, over `seconds`, with the blocks in quarantine all that time.
  func idleShare(seconds: Double) throws -> (cores: Double, quarantined: Int) {
    try fill(prompts[0])
    try beginPull(prompts[0], share: 0.3, computing: golden[0].ttftSeconds ?? 1)
    let store = try fleet.nodeProcesses("A")
    store.signal(SIGSTOP)
    try fleet.poll("A's store is stopped", seconds: 5) { store.isStopped }
    try fleet.poll("B hedged", seconds: 30) {
      let audit = try fleet.b.audit()
      return audit.requests == 0 && audit.quarantined > 0
    }
    let quarantined = try fleet.b.audit().quarantined
    // Pacing means not listening: nobody paces in earnest.
    try fleet.b.perform(.pace(.init()))
    let before = Self.processorSeconds(fleet.b.process.pid)
    usleep(UInt32(seconds * 1e6))
    let after = Self.processorSeconds(fleet.b.process.pid)
    store.signal(SIGKILL)
    guard store.hasEnded(waiting: 5_000) else { throw SceneFailure("A's store did not die") }
    try fleet.waitUntilConnected("B", peer: "A")
    return ((after - before) / seconds, quarantined)
  }

  /// User and system time of a process, in seconds.
  private static func processorSeconds(_ pid: Int32) -> Double {
    let text = ProcFile.text("/proc/\(pid)/stat") ?? ""
    guard let end = text.lastIndex(of: ")") else { return 0 }
    let fields = text[text.index(after: end)...].split(separator: " ")
    guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else {
      return 0
    }
    return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
  }
}

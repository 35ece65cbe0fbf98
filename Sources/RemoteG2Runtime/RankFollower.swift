package import Collectives
package import KVTransfer
internal import LlamaModel
package import NIXL
internal import OSThreads
package import RankGroups
internal import RemoteG2Core
internal import RemoteG2Engine

/// A rank above 0 of a worker: it obeys until its group ends.
package enum RankFollower {
  /// Obeys on a thread of its own, and returns when that has ended.
  ///
  /// - Parameters:
  ///   - library: Nil: nothing is pulled from peers.
  ///   - rigging: Nil where the worker serves.
  package static func run(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, group: MPIGroup,
    watchdog: GroupWatchdog?, rigging: PumpRigging? = nil
  ) throws(WorkerError) {
    let failure = Guarded<WorkerError?>(nil)
    // Handed over: this thread does nothing but wait until the other has ended.
    nonisolated(unsafe) let group = group
    OSThread.start("step-\(group.rank)") {
      do throws(WorkerError) {
        try obey(
          configuration, library: library, group: group, watchdog: watchdog, rigging: rigging)
      } catch { failure.withLock { $0 = error } }
    }.join()
    if let error = failure.withLock({ $0 }) { throw error }
  }

  private static func obey(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, group: MPIGroup,
    watchdog: GroupWatchdog?, rigging: PumpRigging?
  ) throws(WorkerError) {
    var generator = SystemRandomNumberGenerator()
    let parts = try RankParts(
      configuration, library: library, incarnation: Incarnation(using: &generator),
      reducer: MPITensorReducer(group), ringing: group.bell, rigging: rigging)
    let loop = RankLoop(
      model: parts.model, memory: parts.memory,
      channel: WorkerStepChannel(group, limits: configuration.limits), worker: parts.worker,
      clock: MonotonicClock.now)
    watchdog?.groupHasStarted()
    while loop.step() {}
    group.leave()
    GroupMemory.leave()
    parts.pump.stop()
  }
}

package import Collectives
internal import Foundation
internal import Glibc
internal import KVTransfer
internal import LlamaModel
package import NIXL
internal import OSThreads
package import RemoteG2Core
package import RemoteG2Engine
internal import Synchronization

extension WireCoder where Value: Codable {
  /// Both ends are the same program of the same build, so no version travels.
  package static var json: WireCoder {
    WireCoder(
      encode: { value in
        do { return Array(try JSONEncoder().encode(value)) } catch {
          preconditionFailure("a step's message cannot be written: \(error)")
        }
      },
      decode: { bytes in
        do { return try JSONDecoder().decode(Value.self, from: Data(bytes)) } catch {
          preconditionFailure("a step's message cannot be read: \(error)")
        }
      })
  }
}

/// A worker's own channel: to itself, or to its group.
package typealias WorkerStepChannel = ProcessStepChannel<StepPlan, RankReport>

extension WorkerStepChannel {
  package convenience init(_ group: MPIGroup?, limits: Limits) {
    self.init(group, plans: .json, reports: .json, limits: limits)
  }
}

/// A rank above 0 of a worker: it obeys until its group ends.
package enum RankFollower {
  /// - Parameter library: Nil: nothing is pulled from peers.
  package static func run(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, group: MPIGroup,
    watchdog: GroupWatchdog?
  ) throws(WorkerError) {
    var generator = SystemRandomNumberGenerator()
    let parts = try RankParts(
      configuration, library: library, incarnation: Incarnation(using: &generator),
      reducer: MPITensorReducer(group), ringing: group.bell, onTrace: { _ in })
    let loop = RankLoop(
      model: parts.model, memory: parts.memory,
      channel: WorkerStepChannel(group, limits: configuration.limits), worker: parts.worker,
      clock: MonotonicClock.now)
    watchdog?.groupHasStarted()
    while loop.step() {}
    parts.pump.stop()
  }
}

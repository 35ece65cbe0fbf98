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

/// Ends this process when its rank has waited too long for its group. A rank that died or hangs can
/// never be made good: what the group computed so far is unfinished on every rank. The worker's store
/// is a process of its own and serves on.
package final class GroupWatchdog: Sendable {
  /// `_exit` with this.
  package static let status: Int32 = 71
  private static let look: Duration = .milliseconds(100)

  private let silenceMax: Atomic<Int64>
  private let laterMax: Duration

  /// - Parameters:
  ///   - startMax: Until ``groupHasStarted()``, while ranks load their models.
  ///   - silenceMax: From then on.
  package init(
    _ pulse: GroupPulse, rank: String, startMax: Duration, silenceMax: Duration
  ) {
    self.silenceMax = Atomic(startMax.nanoseconds)
    laterMax = silenceMax
    _ = OSThread.start("watchdog-\(rank)") { [self] in
      var (since, waited): (LocalInstant?, Duration) = (nil, .zero)
      while true {
        OSThread.nap(Self.look)
        // Only time in which this process ran counts: a pause of the whole group is nobody's fault.
        let waiting = pulse.waitingSince
        waited = waiting == since ? waited + Self.look : .zero
        since = waiting
        let most = Duration.nanoseconds(self.silenceMax.load(ordering: .relaxed))
        guard since != nil, waited > most else { continue }
        let words =
          "rank \(rank): no word from its group for \(most): a rank has died or hangs. "
          + "This engine ends; its store serves on. Start the worker again\n"
        _ = words.utf8CString.withUnsafeBytes { write(2, $0.baseAddress, $0.count - 1) }
        _exit(Self.status)
      }
    }
  }

  package func groupHasStarted() {
    silenceMax.store(laterMax.nanoseconds, ordering: .relaxed)
  }
}

/// How a rank group of processes is started.
package enum GroupLauncher {
  /// This process's rank, as mpirun calls it.
  package static var rankName: String {
    getenv("OMPI_COMM_WORLD_RANK").map { String(cString: $0) } ?? "0"
  }
  /// Whether mpirun started this process.
  package static var isRank: Bool { getenv("OMPI_COMM_WORLD_SIZE") != nil }

  /// Replaces this process by mpirun, which starts it again as `ranks` ranks. Returns only when it
  /// cannot.
  package static func becomeGroup(ranks: Int) -> MPIError {
    let line =
      [program]
      + arguments(ranks: ranks, "/proc/self/exe".resolved, Array(CommandLine.arguments.dropFirst()))
    var words: [UnsafeMutablePointer<CChar>?] = line.map { strdup($0) }
    words.append(nil)
    execv(program, words)
    return .library("\(program): \(String(cString: strerror(errno)))")
  }

  /// Open MPI's, by the name that no other MPI's alternative can take.
  package static let program = "/usr/bin/mpirun.openmpi"

  package static func arguments(
    ranks: Int, _ program: String, _ arguments: [String]
  ) -> [String] {
    [
      "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "--mca", "plm", "isolated",
      "-n", "\(ranks)", program,
    ] + arguments
  }
}

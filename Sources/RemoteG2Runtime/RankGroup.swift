package import Collectives
internal import Foundation
internal import Glibc
internal import OSThreads
internal import RemoteG2Core

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

/// Ends this process when its rank has waited too long for its group. A rank that died or hangs can
/// never be made good: what the group computed so far is unfinished on every rank. The worker's store
/// is a process of its own and serves on.
package final class GroupWatchdog: Sendable {
  /// `_exit` with this.
  package static let status: Int32 = 71
  private static let look: Duration = .milliseconds(100)

  private let bell = Doorbell()

  package init(_ pulse: GroupPulse, rank: Int, silenceMax: Duration) {
    _ = OSThread.start("watchdog-\(rank)") { [bell] in
      while true {
        bell.wait(atMost: Self.look)
        guard let since = pulse.waitingSince, MonotonicClock.now() - since > silenceMax else {
          continue
        }
        let words =
          "rank \(rank): no word from its group for \(silenceMax): a rank has died or hangs. "
          + "This engine ends; its store serves on. Start the worker again\n"
        _ = words.utf8CString.withUnsafeBytes { write(2, $0.baseAddress, $0.count - 1) }
        _exit(Self.status)
      }
    }
  }
}

/// How a rank group of processes is started.
package enum GroupLauncher {
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

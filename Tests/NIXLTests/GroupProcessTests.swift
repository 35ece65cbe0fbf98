import Collectives
import Foundation
import RemoteG2Runtime
import Testing

private let hasMPI = FileManager.default.fileExists(atPath: GroupLauncher.program)

/// The group's cells over real MPI, a covering sample of what runs in one process for all of them.
@Suite(.serialized, .enabled(if: hasMPI, "Open MPI is not installed: scripts/setup installs it"))
struct `A rank group of processes` {
  static func run(
    _ started: Int, _ arguments: [String]
  ) throws -> (status: Int32, output: String, errors: String) {
    let host = URL(fileURLWithPath: "/proc/self/exe".resolved).deletingLastPathComponent()
      .appendingPathComponent("remote-g2-testhost").path
    return try ChildProcess.run(
      GroupLauncher.program,
      GroupLauncher.arguments(ranks: started, host, ["group"] + arguments),
      environment: ["SWIFT_BACKTRACE": "enable=no"], timeout: .seconds(120))
  }

  @Test(
    arguments: [
      (2, "failsAtPost", [1]), (3, "none", []), (3, "failsMidway", [0]), (3, "hangs", [1, 2]),
      (3, "isCorrupt", [2]), (4, "isSlow", [0, 1, 2, 3]), (4, "failsMidway", [1, 3]),
    ] as [(Int, String, [Int])])
  func `any ranks may fail, and all settle on the same value`(
    ranks: Int, kind: String, failing: [Int]
  ) throws {
    let (status, output, errors) = try Self.run(
      ranks, ["\(ranks)", kind, failing.map(String.init).joined(separator: ",")])
    #expect(status == 0, "\(output) \(errors)")
    let entries = output.split(separator: "\n").filter { $0.contains("entered") }
      .map { $0.split(separator: " ").suffix(3) }
    #expect(entries.count == ranks, "\(output)")
    #expect(Set(entries).count == 1, "a collective was entered by some ranks only: \(output)")
  }

  @Test func `a rank that stalls ends its group, with a message, and nobody is left`() throws {
    let (status, output, errors) = try Self.run(3, ["3", "stalls", "1", "2"])
    #expect(status != 0)
    #expect(errors.contains("no word from its group"), "\(errors)")
    let pids = output.split(separator: "\n").filter { $0.contains(" is ") }
      .compactMap { $0.split(separator: " ").last.flatMap { Int32($0) } }
    #expect(pids.count == 3, "\(output)")
    for pid in pids {
      let isGone = ChildProcess(running: pid).map { $0.hasEnded(waiting: 5_000) } ?? true
      #expect(isGone, "process \(pid) is left")
    }
  }

  @Test func `a group of another size is refused, and says how to start it`() throws {
    let (status, output, _) = try Self.run(2, ["3", "none", ""])
    #expect(status != 0)
    #expect(output.contains("start it with -n 3"), "\(output)")
  }
}

@Suite struct `Where Open MPI is missing` {
  @Test func `a group of processes says what to install`() {
    let error = #expect(throws: MPIError.self) {
      _ = try MPIGroup(library: "/nonexistent/libmpi.so")
    }
    #expect(error?.description.contains("openmpi-bin") == true)
  }
}

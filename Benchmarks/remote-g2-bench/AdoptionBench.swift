import Foundation
import NodeTesting
import OSThreads
import Processes
import RemoteG2Core

/// What is lost when the process that serves a node is killed, and for how long.
enum AdoptionBench {
  static func run(kills: Int) throws {
    let program = URL(fileURLWithPath: "/proc/self/exe".resolved).deletingLastPathComponent()
      .appendingPathComponent("remote-g2").path
    // The same program, which does nothing.
    let starts = try (0..<20).map { _ in
      try Bench.seconds {
        _ = try ChildProcess.run(program, ["--help"], timeout: .seconds(10))
      }
    }
    let trial = try AdoptionTrial(program: program)
    let result = try trial.run(kills: kills) {
      guard $0.kills % 10 == 0 else { return }
      print("  \($0.kills) of \(kills)")
      fflush(nil)
    }
    let left = trial.end()
    func milliseconds(_ times: [Double]) -> String {
      [0.5, 0.95, 1].map { String(format: "%.0f", Bench.quantile(times, $0) * 1e3) }
        .joined(separator: " / ")
    }
    print(
      """
      the process that serves was killed \(result.kills) times, in the middle of saves, pulls and loads
        back for engines of its host, ms p50 / p95 / most:  \
      \(milliseconds(result.backForEngines.map(\.inSeconds)))
        back for members, ms p50 / p95 / most:              \
      \(milliseconds(result.backForMembers.map(\.inSeconds)))
        the same program started for its help, ms:          \(milliseconds(starts))
        of \(result.expected) blocks that were known a second before: \
      \(String(format: "%.2f", 100 * Double(result.served) / Double(max(1, result.expected)))) % after it
        \(result.loads) loads, \(result.pulls) pulls; wrong: \(result.wrong); left: \(left ?? "nothing")
      """)
  }
}

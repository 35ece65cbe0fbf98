import Foundation
import KVConnector
import KVLayout
import KVTransfer
import KVTransferTesting
import Linear
import LlamaModel
import NIXL
import OSThreads
import RemoteG2Control
import RemoteG2Core
import RemoteG2Runtime

/// Benchmarks: ratios within one run, against a peer or a physical limit. Never a pass or a fail.
@main
enum Bench {
  static func main() async throws {
    setenv("UCX_NET_DEVICES", "lo", 0)
    setenv("UCX_LOG_LEVEL", "error", 0)
    signal(SIGPIPE, SIG_IGN)
    let arguments = Array(CommandLine.arguments.dropFirst())
    switch arguments.first {
    case "serve": try ReadBench.serve(arguments.dropFirst().compactMap { Int($0) })
    case "read": try ReadBench.run()
    case "node": try NodeBench.run()
    case "encrypted": try NodeBench.encrypted()
    case "index": IndexBench.run()
    case "feeds": try FeedsBench.run()
    case "spread": try SpreadBench.run()
    case "registry":
      try await RegistryBench.run(gone: arguments.dropFirst().first.flatMap { Int($0) } ?? 150)
    case "adoption":
      try AdoptionBench.run(kills: arguments.dropFirst().first.flatMap { Int($0) } ?? 20)
    case "node-serve": try NodeBench.serve(arguments.dropFirst().compactMap { Int($0) })
    case "pump": PumpBench.run()
    case "connector": try ConnectorBench.run()
    case "control": try await ControlBench.run(model: arguments.dropFirst().first)
    case "compute": try ControlBench.computeForever(arguments.dropFirst().first)
    case "engine": try EngineBench.run(model: arguments.dropFirst().first)
    case "group": GroupBench.threads()
    case "rank": try GroupBench.processes()
    case "prefill": try EngineBench.profile(model: arguments.dropFirst().first)
    default:
      FileHandle.standardError.write(
        Data(
          "usage: remote-g2-bench read | node | encrypted | index | feeds | spread | registry [SECONDS] | adoption [KILLS] | connector | pump | group | control MODEL | engine MODEL\n"
            .utf8))
      exit(64)
    }
    NIXLLibrary.endProcess(0)
  }

  static func seconds(_ body: () throws -> Void) rethrows -> Double {
    let start = MonotonicClock.now()
    try body()
    return (MonotonicClock.now() - start).inSeconds
  }

  /// User and system time of this process, all its threads.
  static func processorSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// The same of another.
  static func processorSeconds(of pid: Int32) -> Double {
    var (clock, time) = (clockid_t(), timespec())
    guard clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0 else { return 0 }
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// What this process takes of it while it sleeps here.
  static func processorSeconds(over time: Duration) -> Double {
    let before = processorSeconds()
    OSThread.nap(time)
    return processorSeconds() - before
  }

  static func quantile(_ values: [Double], _ share: Double) -> Double {
    let sorted = values.sorted()
    return sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
  }
}

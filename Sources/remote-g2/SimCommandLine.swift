import ArgumentParser
import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Runtime
import Simulation

struct Sim: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs the shipped code in seeded, simulated worlds full of faults.",
    discussion: """
      Every seed is one world: some workers and stores, a network and clocks that misbehave, requests \
      that come and go. Each event is followed by checks; at the end the faults heal and everything \
      must finish with the right tokens and nothing left over. A failure prints the command that \
      replays it. Seeds run on every processor.
      """)

  @Option(help: "The first seed.") var seed: UInt64 = 1
  @Option(help: "How many seeds.") var seeds = 1
  @Option(help: "Events with faults, in each.") var steps = 2000
  @Option(
    help: """
      One of: \(Profile.all.map(\.name).joined(separator: ", ")); or fleet: nodes, with foreign engines \
      beside them.
      """)
  var profile = "swarm"
  @Option(
    help: ArgumentHelp(
      """
      Plant a bug: \(PlantedBug.allCases.map(\.rawValue).joined(separator: ", ")); in fleet: \
      \(FleetBug.allCases.map(\.rawValue).joined(separator: ", ")).
      """,
      discussion: "The run must then fail; it shows that the checks can."))
  var bug: String?
  @Flag(help: "Run every seed twice and compare.") var doublecheck = false
  @Option(help: "Processes.") var jobs = ProcessInfo.processInfo.activeProcessorCount
  @Flag(help: .hidden) var isChild = false

  func run() throws {
    checkRange("--seeds", seeds, 1...10_000_000)
    checkRange("--steps", steps, 1...100_000_000)
    checkRange("--jobs", jobs, 1...256)
    let run = try run(of: profile)
    if isChild {
      runHere(run)
    } else {
      try SimFleet(command: self).run()
    }
  }

  /// What one seed came to.
  private struct Outcome {
    let steps: Int
    let violation: Violation?
    let numbers: [Int]
    let trace: UInt64
  }

  private func run(of profile: String) throws -> (UInt64) -> Outcome {
    if profile == "fleet" {
      let planted = bug.map { Self.planted(FleetBug.self, $0) }
      return { seed in
        let outcome = FleetSimulation.run(seed: seed, steps: steps, bug: planted)
        return Outcome(
          steps: outcome.steps, violation: outcome.violation, numbers: outcome.stats.numbers,
          trace: outcome.trace)
      }
    }
    guard let world = Profile.named(profile) else {
      fail(
        "--profile '\(profile)' is not one of: "
          + (Profile.all.map(\.name) + ["fleet"]).joined(separator: ", "))
    }
    let planted = bug.map { Self.planted(PlantedBug.self, $0) }
    return { seed in
      let outcome = Simulation.run(seed: seed, steps: steps, profile: world, bug: planted)
      return Outcome(
        steps: outcome.steps, violation: outcome.violation, numbers: outcome.stats.numbers,
        trace: outcome.trace)
    }
  }

  private static func planted<Bug: RawRepresentable & CaseIterable>(
    _ kind: Bug.Type, _ name: String
  ) -> Bug where Bug.RawValue == String {
    guard let known = Bug(rawValue: name) else {
      fail(
        "--bug '\(name)' is not one of: "
          + Bug.allCases.map(\.rawValue).joined(separator: ", "))
    }
    return known
  }

  /// One process's share: a line a seed before it runs, a line after.
  private func runHere(_ run: (UInt64) -> Outcome) {
    // Unbuffered: what was said before a trap must have been said.
    func say(_ line: String) { FileHandle.standardOutput.write(Data((line + "\n").utf8)) }
    for seed in seed..<seed + UInt64(seeds) {
      say("begin \(seed)")
      let outcome = run(seed)
      if doublecheck {
        let again = run(seed)
        if again.trace != outcome.trace || again.numbers != outcome.numbers {
          say("violation \(seed) two runs of this seed differ")
        }
      }
      if let violation = outcome.violation { say("violation \(seed) \(violation)") }
      let numbers = [outcome.steps] + outcome.numbers
      say("end \(seed) " + numbers.map(String.init).joined(separator: " "))
    }
  }

  func replay(_ seed: UInt64) -> String {
    var words = ["remote-g2 sim --profile \(profile) --steps \(steps) --seed \(seed)"]
    if let bug { words.append("--bug \(bug)") }
    return words.joined(separator: " ")
  }
}

/// The processes that share the seeds: a trap in one names its seed.
private struct SimFleet {
  let command: Sim

  private struct Totals {
    var runs = 0
    var steps = 0
    var sums: [Int]
    /// Runs in which a thing happened at all.
    var reached: [Int]

    init(of count: Int) {
      sums = Array(repeating: 0, count: count)
      reached = sums
    }
  }

  private var names: [String] { command.profile == "fleet" ? FleetStats.names : SimStats.names }

  func run() throws {
    let began = MonotonicClock.now()
    let share = (command.seeds + command.jobs - 1) / command.jobs
    var children: [(process: ChildProcess, reader: OSThread, pipe: FileHandle)] = []
    let said = Guarded<[Int: [String]]>([:])
    var first = command.seed
    var left = command.seeds
    while left > 0 {
      let count = min(share, left)
      let pipe = Pipe()
      var arguments = [
        "sim", "--is-child", "--seed", "\(first)", "--seeds", "\(count)", "--steps",
        "\(command.steps)", "--profile", command.profile,
      ]
      if let bug = command.bug { arguments += ["--bug", bug] }
      if command.doublecheck { arguments.append("--doublecheck") }
      // The order of a hashed collection must not depend on the process.
      let child = try ChildProcess(
        "/proc/self/exe".resolved, arguments,
        environment: ["SWIFT_DETERMINISTIC_HASHING": "1", "SWIFT_BACKTRACE": "enable=no"],
        output: pipe.fileHandleForWriting.fileDescriptor, error: 2)
      try? pipe.fileHandleForWriting.close()
      let (number, descriptor) = (children.count, pipe.fileHandleForReading.fileDescriptor)
      // All of them at once: one that nobody hears stops when its pipe is full.
      let reader = OSThread.start("lines") {
        var lines = LineReader(descriptor, bytesMax: 1 << 16)
        while case .text(let bytes)? = lines.next() {
          said.withLock { $0[number, default: []].append(String(decoding: bytes, as: UTF8.self)) }
        }
      }
      children.append((child, reader, pipe.fileHandleForReading))
      first += UInt64(count)
      left -= count
    }
    var totals = Totals(of: names.count)
    var failures: [(seed: UInt64, what: String)] = []
    for (number, child) in children.enumerated() {
      child.reader.join()
      var running: UInt64?
      for line in said.withLock({ $0.removeValue(forKey: number) ?? [] }) {
        let words = line.split(separator: " ")
        guard words.count > 1, let seed = UInt64(words[1]) else { continue }
        switch words[0] {
        case "begin": running = seed
        case "violation":
          failures.append((seed, words.dropFirst(2).joined(separator: " ")))
        default:
          running = nil
          add(words.dropFirst(2).compactMap { Int($0) }, to: &totals)
        }
      }
      _ = child.process.hasEnded(waiting: 5_000)
      if let running { failures.append((running, "the process was trapped or killed")) }
    }
    report(totals, failures, seconds: (MonotonicClock.now() - began).inSeconds)
    // A thousand runs that never came to one of these show nothing about it.
    let rare = names.indices.filter {
      (command.profile == "fleet" ? $0 < names.count : (3...7).contains($0))
        && totals.reached[$0] * 100 < totals.runs
    }
    if ["swarm", "fleet"].contains(command.profile), command.seeds >= 1000, !rare.isEmpty {
      print("too rare: \(rare.map { names[$0] }.joined(separator: ", "))")
      throw ExitCode(1)
    }
    if !failures.isEmpty { throw ExitCode(1) }
  }

  private func add(_ numbers: [Int], to totals: inout Totals) {
    guard numbers.count == names.count + 1 else { return }
    totals.runs += 1
    totals.steps += numbers[0]
    for (index, number) in numbers.dropFirst().enumerated() {
      totals.sums[index] += number
      totals.reached[index] += number > 0 ? 1 : 0
    }
  }

  private func report(
    _ totals: Totals, _ failures: [(seed: UInt64, what: String)], seconds: Double
  ) {
    print(
      String(
        format: "%d seeds, %d events, %.1f s (%.1f us an event)", totals.runs, totals.steps,
        seconds,
        seconds * 1e6 * Double(command.jobs) / Double(max(1, totals.steps))))
    for (index, name) in names.enumerated() {
      let share = 100 * Double(totals.reached[index]) / Double(max(1, totals.runs))
      print(
        "  \(name.padding(toLength: 11, withPad: " ", startingAt: 0)) "
          + String(format: "%9d   in %5.1f %% of the runs", totals.sums[index], share))
    }
    for failure in failures.prefix(10) {
      print("FAILED \(failure.what)\n  replay: \(command.replay(failure.seed))")
    }
    if failures.count > 10 { print("… and \(failures.count - 10) more") }
    print(failures.isEmpty ? "no invariant was broken" : "\(failures.count) runs failed")
  }
}

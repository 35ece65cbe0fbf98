import ArgumentParser
import Foundation
import LlamaModel
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

struct FleetCommandLine: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fleet",
    abstract:
      "Show what a fleet saves behind a plain load balancer, and that its faults cost no token.",
    discussion: """
      Starts workers with the built-in engine, each beside a node of its own, and deals them prompts with \
      common prefixes in turn: first with nodes that know nobody, then with nodes that know each other, \
      then while a node is killed, stopped, started again, and served by one process after another. No hints, no NIXL.
      """)

  @Option(help: "A GGUF file.") var model: String?
  @Option(help: "Workers, each with a node.") var workers = 4
  @Option(help: "Prompts.") var requests = 48
  @Option(help: "Different prefixes.") var prefixes = 8
  @Option(help: "Tokens of a prefix.") var prefixTokens = 512
  @Option(help: "Tokens that follow it and are each prompt's own.") var tailTokens = 48
  @Option(help: "Tokens to generate for each prompt.") var generate = 8
  @Option(help: "Of the order in which prefixes come.") var seed: UInt64 = 1
  @Option(help: "Write what was measured to this file.") var json: String?
  @Flag(help: "Keep the run directory, with its logs.") var keep = false

  func run() throws {
    checkRange("--workers", workers, 2...16)
    checkRange("--requests", requests, workers...10_000)
    checkRange("--prefixes", prefixes, 1...1000)
    checkRange("--prefix-tokens", prefixTokens, 16...1800)
    checkRange("--tail-tokens", tailTokens, 1...1000)
    checkRange("--generate", generate, 1...64)
    signal(SIGPIPE, SIG_IGN)
    let path = ModelLocation.find(model)
    let sample = SampleText(model: path)
    let workload = FleetWorkload(
      sample.tokenizer.encode(sample.text, parsesControls: false), prefixes: prefixes,
      prefixTokens: prefixTokens, tailTokens: tailTokens, requests: requests, seed: seed)
    let directory = FileManager.default.temporaryDirectory.path + "/rg2-fleet-\(getpid())"
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: true,
      attributes: [.posixPermissions: 0o700])
    Interruption.clean { Fleet.killAll(in: directory) }
    let fleet = NodeFleet(
      NodeFleet.Settings(
        model: path, directory: directory, names: (1...workers).map { "n\($0)" },
        blockCount: 2 * (prefixTokens + tailTokens + generate) / 16 + 8, memory: "512MiB",
        generate: generate))
    var report = FleetReport(ok: false, faults: [])
    do {
      try play(workload, fleet, &report)
    } catch {
      Self.say("stopped: \(error)")
      report.faults.append(
        FleetReport.Fault(
          name: "aborted", ok: false, tokens_identical: false, fault_proved: false,
          unmet: ["\(error)"]))
    }
    fleet.stop()
    report.ok = report.fleet != nil && report.faults.allSatisfy(\.ok)
    Self.print(report)
    if let json { try write(report, to: json) }
    if !keep && report.ok {
      try? FileManager.default.removeItem(atPath: directory)
    } else {
      Self.say("logs are in \(directory)")
    }
    if !report.ok { throw ExitCode(1) }
  }

  private func play(
    _ workload: FleetWorkload, _ fleet: NodeFleet, _ report: inout FleetReport
  ) throws {
    Self.say("\(workers) workers, each beside a node that knows nobody: \(requests) prompts")
    try fleet.start(joined: false)
    let alone = try workload.play(on: fleet)
    report.alone = alone.report
    try reset(fleet)
    Self.say("the same prompts, with nodes that know each other")
    let together = try workload.play(on: fleet)
    report.fleet = together.report
    let isSame = together.answers == alone.answers
    let isShared = together.report.hit_share > alone.report.hit_share
    let same = FleetReport.Fault(
      name: "none", ok: isSame && isShared, tokens_identical: isSame, fault_proved: nil,
      unmet: (isSame ? [] : ["tokens differ"]) + (isShared ? [] : ["nothing was shared"]))
    report.faults.append(try audited(same, fleet))
    for fault in FleetFault.allCases {
      fleet.isKept = fault == .succeeded
      try reset(fleet)
      Self.say("the same prompts, while a node is \(fault.rawValue)")
      report.faults.append(
        try audited(try fault.play(workload, fleet, golden: alone.answers), fleet))
    }
  }

  /// Empty nodes and engines, with nodes that know each other.
  private func reset(_ fleet: NodeFleet) throws {
    fleet.stopNodes()
    try fleet.start(joined: true)
    for worker in fleet.workers.values { try worker.dropCaches(store: false) }
  }

  private func audited(
    _ fault: FleetReport.Fault, _ fleet: NodeFleet
  ) throws -> FleetReport.Fault {
    var fault = fault
    let leaks = try fleet.leaks()
    fault.unmet += leaks
    fault.ok = fault.ok && leaks.isEmpty
    Self.say(fault.ok ? "  as expected" : "  NOT as expected: \(fault.unmet)")
    return fault
  }

  private func write(_ report: FleetReport, to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    do { try encoder.encode(report).write(to: URL(fileURLWithPath: path)) } catch {
      fail("cannot write --json \(path): \(error.localizedDescription)")
    }
  }

  private static func print(_ report: FleetReport) {
    Swift.print("        hit share  TTFT p50 s  TTFT p95 s  tokens computed")
    for (name, side) in [("alone", report.alone), ("fleet", report.fleet)] {
      guard let side else { continue }
      Swift.print(
        name.padding(toLength: 8, withPad: " ", startingAt: 0)
          + String(
            format: "%8.1f %%  %10.3f  %10.3f  %15d", side.hit_share * 100, side.ttft_p50_s,
            side.ttft_p95_s, side.tokens_computed))
    }
    for fault in report.faults {
      Swift.print(
        "fault \(fault.name): \(fault.ok ? "as expected" : "NOT as expected: \(fault.unmet)")")
    }
  }

  private static func say(_ words: String) {
    FileHandle.standardError.write(Data((words + "\n").utf8))
  }
}

/// What happens to a node in the middle of the prompts.
enum FleetFault: String, CaseIterable {
  case killed
  case stopped
  case restarted
  /// The process that serves is killed again and again, and another has its blocks.
  case succeeded

  /// Half of the prompts have been dealt when it happens, and the round it happens in is under way.
  func play(
    _ workload: FleetWorkload, _ fleet: NodeFleet, golden: [[Int32]]
  ) throws -> FleetReport.Fault {
    let rounds = (workload.prompts.count + fleet.workers.count - 1) / fleet.workers.count
    let (name, middle) = (fleet.settings.names[0], rounds / 2)
    var isProved = false
    let outcome = try workload.play(on: fleet) { round in
      guard let node = fleet.nodes[name] else { return }
      if self == .succeeded {
        // Not twice within a second: that is what the next ones would mistrust.
        guard round >= middle, (round - middle) % 2 == 0 else { return }
        let hasBlocks = try node.killServing()
        isProved = hasBlocks && (isProved || round == middle)
        return
      }
      if round == middle {
        // It holds what others want: that is what dies, or falls silent.
        isProved = try node.report().pools.contains { $0.sealed > 0 }
        node.process.signal(self == .stopped ? SIGSTOP : SIGKILL)
        if self != .stopped { isProved = isProved && node.process.hasEnded(waiting: 5_000) }
      }
      if self == .restarted, round == middle + 2 {
        try fleet.startNode(name)
        try fleet.waitUntilConnected()
      }
    }
    if self == .succeeded { try fleet.waitUntilConnected() }
    if self == .stopped {
      isProved = isProved && fleet.nodes[name]?.process.stateLetter == "T"
      fleet.nodes[name]?.process.signal(SIGCONT)
      try fleet.waitUntilConnected()
    }
    let same = outcome.answers == golden
    var unmet: [String] = []
    if !same { unmet.append("tokens differ") }
    if !isProved { unmet.append("the fault did not happen") }
    return FleetReport.Fault(
      name: rawValue, ok: same && isProved, tokens_identical: same, fault_proved: isProved,
      unmet: unmet)
  }
}

import ArgumentParser
import Foundation
import LlamaModel
import NIXLTransfer
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

struct Run: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show on this machine that pulling works and that trying cannot hurt.",
    discussion: """
      Starts two workers, A and B, each an engine and its store, on loopback. B computes three \
      prompts alone; then it pulls them from A while stores and engines are killed, stopped, \
      restarted and emptied. Exit status 0 means: every scene had its expected outcome, its tokens, \
      logits and KV were equal to B's own to the bit, every fault was proved to have happened in the \
      middle of a transfer, and nothing leaked.
      """)

  @Option(help: "A GGUF file.") var model: String?
  @Option(help: "Path of libnixl_capi.so, or of an unpacked wheel.") var nixlPath: String?
  @Option(
    help: ArgumentHelp(
      "UCX transports: 'tcp', or 'auto' for UCX's own choice (cma on one host).",
      discussion: "Over cma a read cannot be interrupted, so faults are shown with tcp."))
  var transport = "tcp"
  @Option(
    help:
      "Comma-separated names of scenes; cold A and cold B always, saving and load only when named.")
  var scenes: String?
  @Option(help: "Tokens to generate for each prompt.") var generate = 64
  @Option(help: "Threads each engine computes with.")
  var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(help: "Tensor-parallel ranks of each worker, started with mpirun.") var tp = 1
  @Option(help: "Write what was measured to this file.") var json: String?
  @Option(help: "After the scenes: this many pairs of a cold and a stopped run, interleaved.")
  var pairs = 0
  @Flag(help: "Keep the run directory, with its logs.") var keep = false
  @Flag(help: "Where NIXL or, for --tp, Open MPI is missing: say so, and succeed.")
  var ifPossible = false

  func run() throws {
    checkRange("--generate", generate, 1...1024)
    checkRange("--threads", threads, 1...256)
    checkRange("--tp", tp, 1...64)
    checkRange("--pairs", pairs, 0...100)
    guard transport == "tcp" || transport == "auto" else {
      fail("--transport '\(transport)' is not one of: tcp, auto")
    }
    signal(SIGPIPE, SIG_IGN)
    let wanted = try chosenScenes()
    let discovery = NIXLDiscovery(explicitPath: nixlPath)
    guard discovery.library != nil else {
      guard ifPossible else { fail(discovery.explanation) }
      Self.say("the scenes are left out: \(discovery.explanation)")
      return
    }
    let path = ModelLocation.find(model)
    if tp > 1, ifPossible, let missing = RankOption.missing {
      Self.say("the scenes are left out: \(missing)")
      return
    }
    RankOption.check(tp, model: path)
    let sample = SampleText(model: path)
    let (prompts, stranger) = Self.prompts(sample)
    let directory = FileManager.default.temporaryDirectory.path + "/rg2-run-\(getpid())"
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: true,
      attributes: [.posixPermissions: 0o700])
    Interruption.clean { Fleet.killAll(in: directory) }
    let isLoaded = wanted.contains { scene in Scenes.load.contains { $0.name == scene.name } }
    let blockCount = isLoaded ? Scenes.loadBlocks : 3 * (stranger.count + generate) / 16 + 64
    let slotCount = isLoaded ? Scenes.loadBlocks : stranger.count / 16 + 40
    let fleet = Fleet(
      Fleet.Settings(
        model: path, nixlPath: nixlPath, directory: directory,
        transport: transport == "auto" ? nil : transport, threads: threads,
        blockCount: blockCount, slotCount: slotCount, generate: generate,
        rankCount: tp))
    let stage = Stage(
      fleet: fleet, prompts: prompts, stranger: stranger, blockBytes: sample.blockBytes / tp,
      progress: Self.say)
    var reports: [SceneReport] = []
    do {
      Self.say(
        "starting two workers over UCX \(transport); prompts of "
          + prompts.map { "\($0.count)" }.joined(separator: ", ") + " tokens")
      try fleet.start("A")
      try fleet.start("B")
      try fleet.waitUntilReady("A", peer: "B")
      try fleet.waitUntilReady("B", peer: "A")
      try fleet.takeBaseline()
      for (name, scene) in wanted {
        Self.say("scene: \(name)")
        var report = try scene(stage)
        report.leaks = try fleet.leaks()
        report.expect(
          report.leaks.isClean, "leaks: \(report.leaks.total) \(fleet.leakDetails)")
        reports.append(report)
        if name == "cold B" { Scenes.compareFirst(&reports[0], stage) }
        Self.say(
          "  \(report.ok ? "as expected" : "NOT as expected: \(report.unmet)"): \(report.outcome)")
        for note in report.notes { Self.say("  \(note)") }
      }
      if pairs > 0 { reports.append(try runPairs(stage)) }
    } catch {
      var report = SceneReport("aborted")
      report.expect(false, "\(error)")
      reports.append(report)
      Self.say("stopped: \(error)")
    }
    fleet.stop()
    let isComplete = reports.count == wanted.count + (pairs > 0 ? 1 : 0)
    let report = RunReport(
      model: (path as NSString).lastPathComponent, transport: transport,
      ok: isComplete && reports.allSatisfy(\.ok), scenes: reports)
    print(SceneTable.text(reports))
    if let cold = reports.first(where: { $0.name == "cold B" })?.ttft_s,
      let pull = reports.first(where: { $0.name == "pull" })?.ttft_s
    {
      print(String(format: "pull/cold TTFT over %@: %.3f", transport, pull / cold))
    }
    if let json { try write(report, to: json) }
    if !keep && report.ok {
      try? FileManager.default.removeItem(atPath: directory)
    } else {
      Self.say("logs are in \(directory)")
    }
    if !report.ok { throw ExitCode(1) }
  }

  private func chosenScenes() throws -> [(name: String, scene: Scenes.Scene)] {
    let usual = Scenes.all + Scenes.rankScenes(tp)
    guard let scenes else { return usual }
    let all = usual + Scenes.saving + Scenes.load
    let names = scenes.split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
    for name in names where !all.contains(where: { $0.name == name }) {
      fail(
        "--scenes: there is no scene '\(name)'; the scenes are: "
          + all.map(\.name).joined(separator: ", "))
    }
    return all.filter { names.contains($0.name) || $0.name.hasPrefix("cold") }
  }

  /// Cold and stopped runs in turn, so that what disturbs one disturbs the other.
  private func runPairs(_ stage: Stage) throws -> SceneReport {
    var report = SceneReport("pairs")
    var ratios: [Double] = []
    for pair in 1...pairs {
      try stage.fleet.b.dropCaches()
      let cold = try stage.fleet.b.generate(stage.prompts[0], generate: stage.generate)
      let stopped = try Scenes.stopped(stage)
      guard let coldTTFT = cold.ttftSeconds, let stoppedTTFT = stopped.ttft_s else {
        throw SceneFailure("a pair without a TTFT")
      }
      ratios.append(stoppedTTFT / coldTTFT)
      report.expect(stopped.ok, "pair \(pair): \(stopped.unmet)")
      print(
        String(
          format: "pair %d: cold %.3f s, stopped %.3f s, ratio %.3f%@", pair, coldTTFT, stoppedTTFT,
          stoppedTTFT / coldTTFT, stopped.ok ? "" : " NOT as expected: \(stopped.unmet)"))
    }
    ratios.sort()
    let median = ratios[ratios.count / 2]
    print(String(format: "median TTFT(stopped)/TTFT(cold): %.3f", median))
    report.outcome = "hedged"
    report.expect(median <= 1.15, "the median ratio is \(median)")
    report.leaks = try stage.fleet.leaks()
    report.expect(report.leaks.isClean, "leaks: \(report.leaks.total)")
    return report
  }

  private func write(_ report: RunReport, to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    do {
      try encoder.encode(report).write(to: URL(fileURLWithPath: path))
    } catch {
      fail("cannot write --json \(path): \(error.localizedDescription)")
    }
  }

  private static func say(_ words: String) {
    FileHandle.standardError.write(Data((words + "\n").utf8))
  }

  /// Three prompts over one text, and a stranger to them.
  private static func prompts(_ sample: SampleText) -> ([[Int32]], [Int32]) {
    let questions = [
      "Who has taken Netherfield Park?", "What does Mr. Bennet say of his daughters?",
      "What is the business of Mrs. Bennet's life?",
    ]
    let tokenizer = sample.tokenizer
    let prompts = questions.map { tokenizer.encodeChat(user: sample.text + "\n\n" + $0) }
    let paragraphs = sample.text.components(separatedBy: "\n\n")
    let turned = Array(paragraphs.reversed()).joined(separator: "\n\n")
    var stranger = tokenizer.encode(turned, parsesControls: false)
    while stranger.count < (prompts.map(\.count).max() ?? 0) + 16 {
      stranger += stranger.prefix(64)
    }
    return (prompts, stranger)
  }
}

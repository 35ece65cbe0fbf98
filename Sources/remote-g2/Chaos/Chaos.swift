import ArgumentParser
import Foundation
import LlamaModel
import NIXLTransfer
import OSThreads
import RemoteG2Core
import RemoteG2Runtime
import Simulation

struct Chaos: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Throws faults at two real workers in the middle of real pulls, at random moments.",
    discussion: """
      Every fault is preceded by a clean recompute of the same prompt, proved to have fallen into a \
      transfer, and followed by a leak audit. Exit status 0 means: no wrong token, nothing stuck, \
      nothing leaked, and no process died that was not killed. With root and iproute2 the workers run \
      in network namespaces, whose link is cut and slowed down too.
      """)

  @Option(help: "How many.") var faults = 22
  @Option(help: "Draws kinds, prompts and moments.") var seed: UInt64 = 1
  @Option(
    help: ArgumentHelp(
      "Comma-separated kinds: \(ChaosFault.allCases.map(\.rawValue).joined(separator: ", "))."))
  var kinds: String?
  @Option(help: "Tokens to generate for each prompt.") var generate = 8
  @Option(help: "A GGUF file.") var model: String?
  @Option(help: "Path of libnixl_capi.so, or of an unpacked wheel.") var nixlPath: String?
  @Option(
    help:
      "At the end: seconds to measure an idle engine for, with a fetch open from a stopped store.")
  var idleSeconds = 0.0
  @Option(help: "Write every round to this file.") var json: String?
  @Flag(help: "On loopback, without the network faults.") var loopback = false
  @Flag(help: "Where NIXL is missing: say so, and succeed.") var ifPossible = false

  func run() throws {
    checkRange("--faults", faults, 1...100_000)
    checkRange("--generate", generate, 1...256)
    signal(SIGPIPE, SIG_IGN)
    var wanted = try chosenKinds()
    let discovery = NIXLDiscovery(explicitPath: nixlPath)
    guard discovery.library != nil else {
      guard ifPossible else { fail(discovery.explanation) }
      Self.say("chaos is left out: \(discovery.explanation)")
      return
    }
    let path = ModelLocation.find(model)
    let sample = SampleText(model: path)
    let directory = FileManager.default.temporaryDirectory.path + "/rg2-chaos-\(getpid())"
    try FileManager.default.createDirectory(
      atPath: directory, withIntermediateDirectories: true,
      attributes: [.posixPermissions: 0o700])
    var link: Link?
    if !loopback, wanted.contains(where: \.needsLink) {
      do { link = try Link() } catch {
        Self.say("network faults are left out: \(error)")
      }
    }
    if link == nil { wanted.removeAll(where: \.needsLink) }
    let links = [link].compactMap { $0 }
    Interruption.clean {
      Fleet.killAll(in: directory)
      for link in links { link.remove() }
    }
    guard !wanted.isEmpty else { fail("no fault is left to play") }
    let fleet = Fleet(
      Fleet.Settings(
        model: path, nixlPath: nixlPath, directory: directory, transport: "tcp",
        threads: ProcessInfo.processInfo.activeProcessorCount, blockCount: 320, slotCount: 256,
        generate: generate, link: link))
    defer {
      fleet.stop()
      link?.remove()
    }
    let stage = ChaosStage(
      fleet: fleet, prompts: Self.prompts(sample), blockBytes: sample.blockBytes, seed: seed,
      say: Self.say)
    let began = MonotonicClock.now()
    var rounds: [ChaosRound] = []
    var stuck: String?
    do {
      try stage.prepare()
      var misses = 0
      var proved = 0
      while proved < faults {
        let number = rounds.count + 1
        let fault = wanted[proved % wanted.count]
        let started = MonotonicClock.now()
        let round = try stage.play(fault, number: number)
        rounds.append(round)
        // A fault that fell between two transfers is played again; one that always does is no fault.
        proved += round.is_proved ? 1 : 0
        misses = round.is_proved ? 0 : misses + 1
        guard misses < 5 else { throw SceneFailure("\(fault) never fell into a transfer") }
        Self.say(
          String(
            format: "%4d %@ at %2.0f %%, kept %d of %d, ratio %@, %.1f s%@%@", number,
            fault.rawValue, round.landed_share * 100, round.tokens_kept, round.tokens_pulled,
            round.ratio.map { String(format: "%.2f", $0) } ?? "-",
            (MonotonicClock.now() - started).inSeconds, round.is_proved ? "" : " (not proved)",
            round.ok ? "" : " NOT as expected: \(round.unmet)"))
      }
      if idleSeconds > 0 {
        let (cores, quarantined) = try stage.idleShare(seconds: min(idleSeconds, 600))
        print(
          String(
            format: "idle, with %d blocks in flight from a stopped store: %.3f core over %.0f s",
            quarantined, cores, idleSeconds))
      }
    } catch {
      stuck = "\(error)"
      stage.noteDeadEngines()
    }
    let report = ChaosReport(
      rounds: rounds, stuck: stuck, deaths: stage.unexpectedDeaths,
      seconds: (MonotonicClock.now() - began).inSeconds)
    print(report.text)
    if let json { try report.write(to: json) }
    if report.ok {
      try? FileManager.default.removeItem(atPath: directory)
    } else {
      Self.say("logs are in \(directory)")
      throw ExitCode(1)
    }
  }

  private func chosenKinds() throws -> [ChaosFault] {
    guard let kinds else { return ChaosFault.allCases }
    return kinds.split(separator: ",").map { name in
      guard let kind = ChaosFault(rawValue: name.trimmingCharacters(in: .whitespaces)) else {
        fail(
          "--kinds: there is no '\(name)'; the kinds are: "
            + ChaosFault.allCases.map(\.rawValue).joined(separator: ", "))
      }
      return kind
    }
  }

  private static func say(_ words: String) {
    FileHandle.standardError.write(Data((words + "\n").utf8))
  }

  /// Pieces of the text that ships with the program, 256 to 512 tokens long.
  private static func prompts(_ sample: SampleText) -> [[Int32]] {
    let tokens = sample.tokenizer.encode(sample.text, parsesControls: false)
    return [256, 300, 345, 400, 460, 512].enumerated().map { index, length in
      Array(tokens[(index * 97)..<(index * 97 + length)])
    }
  }
}

import Foundation
import RemoteG2Runtime
import WorkerConsole

/// What one scene showed. The names are those of the JSON file.
struct SceneReport: Codable {
  struct Leaks: Codable {
    var leases = 0
    var pins = 0
    var in_flight = 0
    var quarantined = 0
    var processes = 0
    var descriptors = 0
    var shared_memory = 0
    /// Fallbacks that an engine counted and no request's result told, or the other way round.
    var unaccounted = 0
    var total: Int {
      leases + pins + in_flight + quarantined + processes + descriptors + shared_memory
        + unaccounted
    }
    var isClean: Bool { total == 0 }
  }

  var name: String
  var ok = true
  var outcome = ""
  var tokens_identical = true
  var logits_identical = true
  var kv_identical = true
  /// Null where the scene has no fault.
  var fault_proved: Bool?
  var ttft_s: Double?
  var step_p50_s: Double?
  var step_max_s: Double?
  var prompt_tokens = 0
  var tokens_pulled = 0
  var tokens_kept = 0
  var tokens_recomputed = 0
  var bytes = 0
  var fault_to_settle_s: Double?
  var settle_to_recompute_s: Double?
  var leaks = Leaks()
  /// What was expected and did not hold.
  var unmet: [String] = []
  /// Measured, and not part of the table.
  var notes: [String] = []
  var pull_s: Double?

  init(_ name: String) { self.name = name }

  enum CodingKeys: String, CodingKey {
    case name, ok, outcome, tokens_identical, logits_identical, kv_identical, fault_proved, ttft_s
    case step_p50_s, step_max_s, prompt_tokens, tokens_pulled, tokens_kept, tokens_recomputed, bytes
    case fault_to_settle_s, settle_to_recompute_s, leaks, unmet, notes
  }

  func encode(to encoder: any Encoder) throws {
    var box = encoder.container(keyedBy: CodingKeys.self)
    try box.encode(name, forKey: .name)
    try box.encode(ok, forKey: .ok)
    try box.encode(outcome, forKey: .outcome)
    try box.encode(tokens_identical, forKey: .tokens_identical)
    try box.encode(logits_identical, forKey: .logits_identical)
    try box.encode(kv_identical, forKey: .kv_identical)
    // Absent values are null, not missing.
    try box.encode(fault_proved, forKey: .fault_proved)
    try box.encode(ttft_s, forKey: .ttft_s)
    try box.encode(step_p50_s, forKey: .step_p50_s)
    try box.encode(step_max_s, forKey: .step_max_s)
    try box.encode(prompt_tokens, forKey: .prompt_tokens)
    try box.encode(tokens_pulled, forKey: .tokens_pulled)
    try box.encode(tokens_kept, forKey: .tokens_kept)
    try box.encode(tokens_recomputed, forKey: .tokens_recomputed)
    try box.encode(bytes, forKey: .bytes)
    try box.encode(fault_to_settle_s, forKey: .fault_to_settle_s)
    try box.encode(settle_to_recompute_s, forKey: .settle_to_recompute_s)
    try box.encode(leaks, forKey: .leaks)
    try box.encode(unmet, forKey: .unmet)
    try box.encode(notes, forKey: .notes)
  }

  mutating func expect(_ holds: Bool, _ what: String) {
    if !holds {
      ok = false
      unmet.append(what)
    }
  }

  /// Adds one request's account, and compares it with its golden run, by bits.
  mutating func add(_ result: ConsoleResult, golden: ConsoleResult?) {
    if ttft_s == nil {
      ttft_s = result.ttftSeconds
      let steps = result.stepSeconds.sorted()
      step_p50_s = steps.isEmpty ? nil : steps[steps.count / 2]
      step_max_s = steps.last
      if let settled = result.settledAt, let recompute = result.firstRecomputeAt {
        settle_to_recompute_s = Double(recompute - settled) / 1e9
      }
    }
    prompt_tokens += result.promptTokens
    tokens_pulled += result.pulledTokens
    tokens_kept += result.keptTokens + result.reloadedTokens
    tokens_recomputed += result.computedTokens
    guard let golden else { return }
    tokens_identical = tokens_identical && result.tokens == golden.tokens
    logits_identical = logits_identical && result.logitsDigest == golden.logitsDigest
    kv_identical = kv_identical && result.kvDigest == golden.kvDigest
  }

  mutating func isUncompared() {
    tokens_identical = false
    logits_identical = false
    kv_identical = false
  }

  mutating func expectIdentical() {
    expect(tokens_identical, "the tokens differ from the golden run's")
    expect(logits_identical, "the logits differ from the golden run's")
    expect(kv_identical, "the KV differs from the golden run's")
  }
}

/// The whole demonstration.
struct RunReport: Codable {
  var version = 1
  var model: String
  var transport: String
  var ok: Bool
  var scenes: [SceneReport]
}

/// Prints the table that comes last.
enum SceneTable {
  static func text(_ scenes: [SceneReport]) -> String {
    let head = [
      "scene", "outcome", "TTFT s", "step p50/max ms", "pulled", "kept", "recomp", "MB", "GB/s",
      "fault→settle→step ms", "identical", "leaks",
    ]
    var rows = [head]
    for scene in scenes {
      func milliseconds(_ seconds: Double?) -> String {
        seconds.map { String(format: "%.0f", $0 * 1e3) } ?? "-"
      }
      let rate = scene.pull_s.map { String(format: "%.2f", Double(scene.bytes) / $0 / 1e9) }
      rows.append([
        scene.name, (scene.ok ? "" : "NOT ") + scene.outcome,
        scene.ttft_s.map { String(format: "%.3f", $0) } ?? "-",
        "\(milliseconds(scene.step_p50_s))/\(milliseconds(scene.step_max_s))",
        "\(scene.tokens_pulled)", "\(scene.tokens_kept)", "\(scene.tokens_recomputed)",
        String(format: "%.1f", Double(scene.bytes) / 1e6), rate ?? "-",
        "\(milliseconds(scene.fault_to_settle_s))→\(milliseconds(scene.settle_to_recompute_s))",
        scene.tokens_identical && scene.logits_identical && scene.kv_identical ? "yes" : "NO",
        scene.leaks.isClean ? "0" : "\(scene.leaks.total)",
      ])
    }
    let widths = head.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    var lines = rows.map { row in
      zip(row, widths).map { $0.padding(toLength: $1, withPad: " ", startingAt: 0) }
        .joined(separator: "  ")
    }
    lines.insert(widths.map { String(repeating: "-", count: $0) }.joined(separator: "  "), at: 1)
    for scene in scenes {
      for unmet in scene.unmet { lines.append("\(scene.name): \(unmet)") }
    }
    return lines.joined(separator: "\n")
  }
}

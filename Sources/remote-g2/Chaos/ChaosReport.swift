import Foundation

/// What all rounds together showed.
struct ChaosReport: Codable {
  var version = 1
  let rounds: [ChaosRound]
  /// Why it did not come to its end.
  let stuck: String?
  /// Processes that died and were not killed.
  let deaths: [String]
  let seconds: Double

  init(rounds: [ChaosRound], stuck: String?, deaths: [String], seconds: Double) {
    self.rounds = rounds
    self.stuck = stuck
    self.deaths = deaths
    self.seconds = seconds
  }

  /// A round whose fault was not proved counts for its tokens and leaks, and for nothing else.
  var ok: Bool {
    stuck == nil && deaths.isEmpty && rounds.allSatisfy(\.ok) && hedges <= max(1, rounds.count / 50)
  }

  /// Rounds whose source was well, and that hedged all the same.
  private var hedges: Int {
    let isWell: Set<ChaosFault> = [
      .sourceEngineKilled, .ownStoreKilled, .ownStoreAborted, .evictionStorm, .storeLeaves,
    ]
    return rounds.count { isWell.contains($0.fault) && $0.reasons == ["stalled"] }
  }

  private static func quantile(_ values: [Double], _ share: Double) -> Double? {
    let sorted = values.sorted()
    return sorted.isEmpty ? nil : sorted[min(sorted.count - 1, Int(Double(sorted.count) * share))]
  }

  private static func words(_ values: [Double], _ format: String, scale: Double = 1) -> String {
    guard let p50 = quantile(values, 0.5), let p95 = quantile(values, 0.95), let most = values.max()
    else { return "-" }
    return [p50, p95, most].map { String(format: format, $0 * scale) }.joined(separator: " / ")
  }

  var text: String {
    var lines: [String] = []
    lines.append(
      "fault                 rounds  proved  kept/pulled  TTFT ratio p50/p95/max  settle ms p50/p95/max"
    )
    for fault in ChaosFault.allCases {
      let some = rounds.filter { $0.fault == fault }
      guard !some.isEmpty else { continue }
      let kept = some.reduce(0) { $0 + $1.tokens_kept }
      let pulled = some.reduce(0) { $0 + $1.tokens_pulled }
      lines.append(
        [
          fault.rawValue.padding(toLength: 21, withPad: " ", startingAt: 0),
          String(format: "%6d  %6d", some.count, some.count { $0.is_proved }),
          "\(kept)/\(pulled)".padding(toLength: 11, withPad: " ", startingAt: 0),
          Self.words(some.compactMap(\.ratio), "%.2f")
            .padding(toLength: 22, withPad: " ", startingAt: 0),
          Self.words(some.compactMap(\.fault_to_settle_s), "%.0f", scale: 1e3),
        ].joined(separator: "  "))
    }
    let ratios = rounds.filter(\.is_proved).compactMap(\.ratio)
    lines.append("")
    lines.append(
      String(
        format: "%d faults in %.1f min, %d proved; %d wrong, %d leaks, %d deaths nobody caused, %@",
        rounds.count, seconds / 60, rounds.count { $0.is_proved }, rounds.count { !$0.identical },
        rounds.reduce(0) { $0 + $1.leaks }, deaths.count, stuck.map { "STUCK: \($0)" } ?? "0 stuck")
    )
    lines.append(
      "TTFT(faulted)/TTFT(clean just before), p50/p95/max: \(Self.words(ratios, "%.3f"))")
    let worst = rounds.filter { $0.ratio != nil }.sorted { $0.ratio ?? 0 > $1.ratio ?? 0 }.prefix(
      10)
    lines.append(
      "the worst ten: "
        + worst.map { String(format: "%.2f %@ (%d)", $0.ratio ?? 0, $0.fault.rawValue, $0.number) }
        .joined(separator: ", "))
    let killed = rounds.filter { $0.fault == .storeKilled }
    let couldKeep = killed.filter { $0.is_proved && $0.leading_landed > 0 }
    lines.append(
      "SIGKILL to settle, p50/p95/max ms: "
        + Self.words(killed.compactMap(\.fault_to_settle_s), "%.0f", scale: 1e3)
        + " (resident MB p50: \(Self.quantile(killed.compactMap(\.resident_mb).map(Double.init), 0.5).map { "\(Int($0))" } ?? "-"))"
    )
    lines.append(
      "salvage: \(couldKeep.count { $0.tokens_kept > 0 }) of \(couldKeep.count) kills with a landing kept tokens"
    )
    let back = rounds.compactMap(\.own_store_back_s)
    lines.append("own store back, p50/p95/max s: \(Self.words(back, "%.2f"))")
    lines.append("hedges though the source was well: \(hedges)")
    for death in deaths { lines.append("DIED: \(death)") }
    for round in rounds where !round.ok {
      lines.append("NOT as expected: \(round.number) \(round.fault.rawValue): \(round.unmet)")
    }
    return lines.joined(separator: "\n")
  }

  func write(to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    do {
      try encoder.encode(self).write(to: URL(fileURLWithPath: path))
    } catch {
      fail("cannot write --json \(path): \(error.localizedDescription)")
    }
  }
}

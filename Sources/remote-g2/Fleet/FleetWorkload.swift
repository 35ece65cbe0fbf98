import Foundation
import RemoteG2Core
import WorkerConsole

/// Prompts that share prefixes, dealt to workers in turn: what a plain load balancer does.
struct FleetWorkload {
  let prompts: [[Int32]]

  /// - Parameters:
  ///   - tokens: A text, of which each prefix is another stretch.
  ///   - seed: Of the order in which prefixes come.
  init(
    _ tokens: [Int32], prefixes: Int, prefixTokens: Int, tailTokens: Int, requests: Int,
    seed: UInt64
  ) {
    func stretch(_ first: Int, _ count: Int) -> [Int32] {
      (0..<count).map { tokens[(first + $0) % tokens.count] }
    }
    var state = seed
    func draw(_ most: Int) -> Int {
      // A linear congruential generator: which prefix comes when needs no better chance.
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % most
    }
    prompts = (0..<requests).map { number in
      let prefix = draw(prefixes)
      return stretch(prefix * 131, prefixTokens) + stretch(7 + number * 37, tailTokens)
    }
  }

  /// What one pass over the prompts came to.
  struct Outcome {
    var answers: [[Int32]] = []
    var seconds: [Double] = []
    var promptTokens = 0
    var computedTokens = 0
    var reasons: [String: Int] = [:]

    var report: FleetReport.Side {
      let sorted = seconds.sorted()
      func share(_ part: Double) -> Double {
        sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, Int(Double(sorted.count) * part))]
      }
      return FleetReport.Side(
        hit_share: promptTokens == 0 ? 0 : 1 - Double(computedTokens) / Double(promptTokens),
        ttft_p50_s: share(0.5), ttft_p95_s: share(0.95), tokens_computed: computedTokens)
    }
  }

  /// Asks the workers in turn, one request at a time of each.
  ///
  /// - Parameter during: Called in each round, whose prompts are under way, with its number: where faults happen.
  func play(
    on fleet: NodeFleet, during: (Int) throws -> Void = { _ in }
  ) throws -> Outcome {
    let workers = fleet.settings.names.compactMap { fleet.workers[$0] }
    var outcome = Outcome()
    for (round, first) in stride(from: 0, to: prompts.count, by: workers.count).enumerated() {
      let slice = prompts[first..<min(first + workers.count, prompts.count)]
      let begun = try zip(workers, slice).map { worker, prompt in
        (worker, try worker.begin(prompt, generate: fleet.settings.generate, hint: nil))
      }
      try during(round)
      for (worker, id) in begun {
        let result = try worker.result(of: id)
        outcome.answers.append(result.tokens)
        outcome.seconds.append(result.ttftSeconds ?? 0)
        outcome.promptTokens += result.promptTokens
        outcome.computedTokens += result.computedTokens
        for reason in result.reasons { outcome.reasons[reason, default: 0] += 1 }
      }
    }
    return outcome
  }
}

/// What `remote-g2 fleet` measured.
struct FleetReport: Codable {
  struct Side: Codable {
    var hit_share: Double
    var ttft_p50_s: Double
    var ttft_p95_s: Double
    var tokens_computed: Int
  }
  struct Fault: Codable {
    var name: String
    var ok: Bool
    var tokens_identical: Bool
    /// Nil where there was none.
    var fault_proved: Bool?
    var unmet: [String]
  }
  var ok: Bool
  var alone: Side?
  var fleet: Side?
  var faults: [Fault]
}

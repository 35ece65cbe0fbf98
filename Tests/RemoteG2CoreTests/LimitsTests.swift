import Foundation
import RemoteG2Core
import Testing

@Suite struct `Relations between limits` {
  typealias Change = @Sendable (inout Limits.Values) -> Void

  /// What is still possible, what is not any more, and why.
  struct Edge: Sendable, CustomTestStringConvertible {
    let why: String
    let inside: Change
    let outside: Change
    var testDescription: String { why }

    init(_ why: String, _ inside: @escaping Change, _ outside: @escaping Change) {
      (self.why, self.inside, self.outside) = (why, inside, outside)
    }
  }

  static let edges: [Edge] = [
    Edge("a default lease must be grantable", { $0.leaseTTL = .seconds(120) }) {
      $0.leaseTTL = .seconds(121)
    },
    Edge("a grant must outlive the wait for it", { $0.resolveMin = .milliseconds(500) }) {
      $0.resolveMin = .milliseconds(501)
    },
    Edge("a grant must outlive the wait for it", { $0.resolveMax = .seconds(29) }) {
      $0.resolveMax = .seconds(30)
    },
    Edge("a pull must be able to end by itself", { $0.hardDeadlineMin = .seconds(30) }) {
      $0.hardDeadlineMin = .seconds(31)
    },
    Edge("a pull must be able to end by itself", { $0.stallMin = .seconds(30) }) {
      $0.stallMin = .seconds(31)
    },
    Edge("a pull must be able to end by itself", { $0.regretMax = 0 }) { $0.regretMax = -0.1 },
    Edge(
      "our own lateness must not cost a source more than its silence",
      { $0.pumpLateCharge = .milliseconds(30) }
    ) { $0.pumpLateCharge = .milliseconds(31) },
    Edge(
      "a block must be able to be saved, and a long prompt to be computed",
      { $0.stagingSlotsMax = 1 }
    ) { $0.stagingSlotsMax = 0 },
    Edge(
      "a block must be able to be saved, and a long prompt to be computed",
      { $0.storeSavesInFlightMax = 1 }
    ) { $0.storeSavesInFlightMax = 0 },
    Edge(
      "a block must be able to be saved, and a long prompt to be computed",
      { $0.overtakenStepsMax = 1 }
    ) { $0.overtakenStepsMax = 0 },
    Edge(
      "a member that is as fast as computing must not be given up for its first look",
      { $0.paceDoubt = 1 }
    ) { $0.paceDoubt = 0.99 },
    Edge(
      "a member that is as fast as computing must not be given up for its first look",
      { $0.paceSpanMin = .nanoseconds(1) }
    ) { $0.paceSpanMin = .zero },
    Edge(
      "the largest orders of one fetch must fit a plan, with a digest for each of 64 ranks",
      { $0.planBlocksMax = 4096 }
    ) { $0.planBlocksMax = 4095 },
    Edge(
      "the largest orders of one fetch must fit a plan, with a digest for each of 64 ranks",
      {
        ($0.planBlocksMax, $0.blocksPerFetchMax) = (32 << 10, 32 << 10)
        $0.groupMessageBytesMax = (64 << 10) * 64 * 17
      }
    ) {
      ($0.planBlocksMax, $0.blocksPerFetchMax) = (32 << 10, 32 << 10)
      $0.groupMessageBytesMax = (64 << 10) * 64 * 17 - 1
    },
    Edge(
      "one sign is not a death, and silence is not one before every fetch has ended",
      { $0.deathRefusalsMin = 2 }
    ) { $0.deathRefusalsMin = 1 },
    Edge(
      "one sign is not a death, and silence is not one before every fetch has ended",
      { $0.peerVanishedMax = .seconds(31) }
    ) { $0.peerVanishedMax = .seconds(30) },
    Edge("a renewed lease must be able to cover a whole fetch", { $0.hardDeadline = .seconds(120) })
    {
      $0.hardDeadline = .seconds(121)
    },
    Edge("a pull must be able to move", { $0.transferBlocksMax = 1 }) { $0.transferBlocksMax = 0 },
    Edge("a pull must be able to move", { $0.transfersPostedMax = 1 }) {
      $0.transfersPostedMax = 0
    },
    Edge("an owner must always be able to evict something", { $0.pinnedFractionMax = 0.01 }) {
      $0.pinnedFractionMax = 0
    },
    Edge("an owner must always be able to evict something", { $0.pinnedFractionMax = 0.99 }) {
      $0.pinnedFractionMax = 1
    },
    Edge(
      "new blocks and old ones must both have a part of the pool", { $0.probationShareMax = 0.99 }
    ) { $0.probationShareMax = 1 },
    Edge(
      "new blocks and old ones must both have a part of the pool", { $0.probationShareMin = 0.3 }
    ) { $0.probationShareMin = 0.31 },
    Edge(
      "new blocks and old ones must both have a part of the pool", { $0.probationShareMin = 0.01 }
    ) { $0.probationShareMin = 0 },
    Edge("no fewer than none can be remembered", { $0.evictionsRememberedMax = 0 }) {
      $0.evictionsRememberedMax = -1
    },
    Edge("no fewer than none can be remembered", { $0.evictionsRememberedPerBlock = 0 }) {
      $0.evictionsRememberedPerBlock = -1
    },
    Edge("the index has a bit for each member of 64", { $0.peersMax = 64 }) { $0.peersMax = 65 },
    Edge(
      "a prefix that many want must reach the first, and others must look for it more than once",
      { $0.answersPerPrefixMax = 1 }
    ) { $0.answersPerPrefixMax = 0 },
    Edge(
      "a prefix that many want must reach the first, and others must look for it more than once",
      { $0.spreadPause = .milliseconds(199) }
    ) { $0.spreadPause = .milliseconds(200) },
    Edge(
      "a call to a registry must be able to fail before the lease has ended",
      { $0.registryLease = .milliseconds(6001) }
    ) { $0.registryLease = .seconds(6) },
    Edge("a grant for the longest fetch must fit a message", { $0.messageBytesMax = 4096 * 64 }) {
      $0.messageBytesMax = 4096 * 64 - 1
    },
    Edge(
      "one peer must never be able to take the whole of G1",
      { $0.quarantinePerSourceFractionMax = 0.5 }
    ) { $0.quarantinePerSourceFractionMax = 0.51 },
    Edge(
      "one peer must never be able to take the whole of G1", { $0.quarantineFractionMax = 0.99 }
    ) { $0.quarantineFractionMax = 1 },
    Edge("a peer that came back must be asked again", { $0.breakerBackoffMin = .nanoseconds(1) }) {
      $0.breakerBackoffMin = .zero
    },
    Edge("a peer that came back must be asked again", { $0.breakerBackoffMin = .seconds(10) }) {
      $0.breakerBackoffMin = .seconds(11)
    },
    Edge(
      "a source of 64 ranks, written as text, must fit a plan", { $0.metadataBytesMax = 128 << 10 }
    ) { $0.metadataBytesMax = 128 << 10 | 1 },
    Edge("a prefill must go on beside a load", { $0.stepTokensBesideLoads = 1 }) {
      $0.stepTokensBesideLoads = 0
    },
    Edge("a request must be able to step", { $0.stepTokensMax = 1 }) { $0.stepTokensMax = 0 },
    Edge("a request must be able to step", { $0.promptTokensMax = 2 }) { $0.promptTokensMax = 1 },
  ]

  @Test(arguments: edges)
  func `are refused where two limits contradict each other, with the reason, and not before`(
    edge: Edge
  ) {
    var values = Limits.Values()
    #expect(values.contradiction == nil)
    edge.inside(&values)
    #expect(values.contradiction == nil, "the last possible value is refused")
    values = Limits.Values()
    edge.outside(&values)
    #expect(values.contradiction == edge.why)
  }

  @Test func `that do not hold are made by nobody`() async {
    await #expect(processExitsWith: .failure) {
      _ = Limits { $0.deathRefusalsMin = 1 }
    }
  }

  @Test func `docs/limits.md has every limit with its default`() throws {
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent()
      .appendingPathComponent("docs/limits.md")
    let text = try String(contentsOf: path, encoding: .utf8)
    let rows = text.matches(of: /\n\| `(\w+)` \| ([^|]+) \|/).map { "\($0.1): \($0.2)" }
    let limits = Mirror(reflecting: Limits.Values()).children.map { child in
      "\(child.label ?? ""): \(Self.words(child.value))"
    }
    #expect(limits.count > 60)
    #expect(rows.sorted() == limits.sorted())
  }

  private static func words(_ value: Any) -> String {
    guard let duration = value as? Duration else { return "\(value)" }
    let milliseconds = duration.nanoseconds / 1_000_000
    return milliseconds % 1000 == 0 ? "\(milliseconds / 1000) s" : "\(milliseconds) ms"
  }
}

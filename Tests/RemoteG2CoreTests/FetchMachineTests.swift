import Foundation
import RemoteG2Core
import Testing

/// Builds a machine in each of its states.
struct FetchStage: CustomStringConvertible {
  static let names = [
    "resolving", "granted", "moving", "moving, landed 2 of 4", "confirming", "checking", "draining",
    "closed",
  ]
  let description: String
  static let start = LocalInstant(nanoseconds: 0)
  static let lease = LeaseID(
    serial: 7, owner: Incarnation(high: 1, low: 2), holder: Incarnation(high: 3, low: 4))
  static let deadlines = FetchDeadlines(
    recomputePerBlock: .milliseconds(500), regret: 0.1, hard: .seconds(30),
    proof: .milliseconds(100))

  func machine(policy: ProofPolicy = .onFailure, ranks: Int = 1) -> FetchMachine {
    var fetch = FetchMachine(
      id: FetchID(1), request: RequestID(1), lease: Self.lease, rankCount: ranks, policy: policy,
      at: FetchStage.start, resolveTimeout: .milliseconds(50), lateAfter: .milliseconds(5))
    if description == "resolving" { return fetch }
    _ = fetch.resolveGranted(blocks: 4)
    if description == "granted" { return fetch }
    _ = fetch.bound(blocks: 4, at: Self.start, deadlines: Self.deadlines)
    if description == "moving" { return fetch }
    let half = RankProgress(
      landed: 2, posting: .stopped, unquiet: [2, 3], lastLanding: Self.start)
    let done = RankProgress(landed: 4, posting: .ended)
    switch description {
    case "moving, landed 2 of 4":
      for rank in 0..<ranks { _ = fetch.rankReported(rank, half, at: Self.start) }
    case "confirming":
      for rank in 0..<ranks { _ = fetch.rankReported(rank, done, at: Self.start) }
    case "checking":
      for rank in 0..<ranks { _ = fetch.rankReported(rank, half, at: Self.start) }
      _ = fetch.peerWentDown(at: Self.start)
    case "draining":
      for rank in 0..<ranks { _ = fetch.rankReported(rank, half, at: Self.start) }
      _ = fetch.cancelled()
    default:
      _ = fetch.cancelled()
      for rank in 0..<ranks { _ = fetch.rankReported(rank, done, at: Self.start) }
    }
    return fetch
  }
}

/// One event, applied to a machine in any state it is possible in.
struct FetchEventCase: Sendable {
  let name: String
  /// States in which the event is our own bug, and traps.
  let trapsIn: Set<String>
  let apply: @Sendable (inout FetchMachine) -> [FetchAction]

  static let late = FetchStage.start + .seconds(60)
  static let all: [FetchEventCase] = [
    FetchEventCase(
      name: "resolve granted",
      trapsIn: ["granted", "moving", "moving, landed 2 of 4", "confirming", "checking", "draining"]
    ) { $0.resolveGranted(blocks: 4) },
    FetchEventCase(
      name: "resolve refused",
      trapsIn: ["granted", "moving", "moving, landed 2 of 4", "confirming", "checking", "draining"]
    ) { $0.resolveRefused(.gone, isRefused: true) },
    FetchEventCase(
      name: "bind refused",
      trapsIn: [
        "resolving", "moving", "moving, landed 2 of 4", "confirming", "checking", "draining",
        "closed",
      ]
    ) { $0.bindRefused() },
    FetchEventCase(name: "cancelled", trapsIn: []) { $0.cancelled() },
    FetchEventCase(name: "peer went down", trapsIn: []) { $0.peerWentDown(at: FetchStage.start) },
    FetchEventCase(name: "lease ended", trapsIn: ["resolving"]) {
      $0.leaseEnded(at: FetchStage.start)
    },
    FetchEventCase(name: "no time passed", trapsIn: []) {
      $0.timePassed(at: FetchStage.start)
    },
    FetchEventCase(name: "every deadline passed", trapsIn: []) {
      $0.timePassed(at: FetchStage.start + .milliseconds(51))
        + $0.timePassed(at: FetchStage.start + .milliseconds(101))
        + $0.timePassed(at: FetchStage.start + .milliseconds(30_001))
    },
    FetchEventCase(name: "judged a minute late", trapsIn: []) { $0.timePassed(at: late) },
    FetchEventCase(name: "judged a minute late, twice", trapsIn: []) {
      $0.timePassed(at: late) + $0.timePassed(at: late + .seconds(1))
    },
    FetchEventCase(name: "confirm: all intact", trapsIn: ["resolving", "granted"]) {
      $0.confirmAnswered(.intact(4), at: FetchStage.start)
    },
    FetchEventCase(name: "confirm: one intact", trapsIn: ["resolving", "granted"]) {
      $0.confirmAnswered(.intact(1), at: FetchStage.start)
    },
    FetchEventCase(name: "confirm: gone", trapsIn: ["resolving", "granted"]) {
      $0.confirmAnswered(.gone, at: FetchStage.start)
    },
    FetchEventCase(name: "confirm: no answer", trapsIn: ["resolving", "granted"]) {
      $0.confirmAnswered(nil, at: FetchStage.start)
    },
    FetchEventCase(name: "rank failed, not quiet", trapsIn: ["resolving", "granted"]) {
      $0.rankReported(
        0,
        RankProgress(
          landed: 2, posting: .ended, failure: .backend("x"),
          unquiet: [2, 3]), at: FetchStage.start)
    },
    FetchEventCase(name: "rank landed all", trapsIn: ["resolving", "granted"]) {
      $0.rankReported(
        0, RankProgress(landed: 4, posting: .ended),
        at: FetchStage.start)
    },
    FetchEventCase(name: "rank stalled", trapsIn: ["resolving", "granted"]) {
      $0.rankReported(
        0,
        RankProgress(
          landed: 2, posting: .open, unquiet: [2, 3],
          stalledAt: FetchStage.start), at: FetchStage.start)
    },
    FetchEventCase(name: "rank proved two", trapsIn: ["resolving", "granted"]) {
      $0.rankReported(
        0,
        RankProgress(
          landed: 2, posting: .ended, proved: 2),
        at: FetchStage.start)
    },
  ]
}

extension FetchAction {
  /// As the table says it.
  var words: String {
    switch self {
    case .bind(let blocks): return "ask the engine for \(blocks) blocks"
    case .start(let blocks): return "read \(blocks) blocks"
    case .stopPosting: return "post nothing more"
    case .confirm(let lease): return "ask what \(lease) still holds"
    case .checkDigests(let leading): return "check the digests of \(leading) blocks"
    case .release(let lease): return "release \(lease)"
    case .settle(let result):
      let unquiet = result.unquiet.isEmpty ? "" : ", \(result.unquiet) may still be written"
      let reason = result.reason.map { ", because of \($0.rawValue)" } ?? ""
      return "settle with \(result.valid) of \(result.matched) blocks\(unquiet)\(reason)"
    case .close: return "close"
    }
  }
}

@Suite struct `Fetch machine` {
  @Test func `every event in every state does what the table says`() throws {
    var lines: [String] = []
    for policy in [ProofPolicy.onFailure, .always, .off] {
      for name in FetchStage.names {
        for event in FetchEventCase.all {
          let prefix = "\(policy) | \(name) | \(event.name) | "
          guard !event.trapsIn.contains(name) else {
            lines.append(prefix + "traps")
            continue
          }
          var machine = FetchStage(description: name).machine(policy: policy)
          let actions = event.apply(&machine)
          lines.append(
            prefix + "\(machine.stateName) | \(actions.map(\.words).joined(separator: "; "))")
          drain(&machine)
        }
      }
    }
    try expectSnapshot(lines.joined(separator: "\n") + "\n", "fetch-machine.txt")
  }

  @Test func `a fetch settles once and closes once, whatever order events come in`() {
    var generator = TestGenerator(seed: 1)
    for _ in 0..<3000 {
      let ranks = Int.random(in: 1...3, using: &generator)
      var fetch = FetchMachine(
        id: FetchID(1), request: RequestID(1), lease: FetchStage.lease, rankCount: ranks,
        policy: .onFailure, at: FetchStage.start, resolveTimeout: .milliseconds(50),
        lateAfter: .milliseconds(5))
      var (settles, closes, releases) = (0, 0, 0)
      var now = FetchStage.start
      func count(_ actions: [FetchAction]) {
        for action in actions {
          switch action {
          case .settle: settles += 1
          case .close: closes += 1
          case .release: releases += 1
          default: break
          }
        }
      }
      var landed = Array(repeating: 0, count: ranks)
      for _ in 0..<40 {
        now = now + .milliseconds(Int.random(in: 0...60, using: &generator))
        switch Int.random(in: 0..<10, using: &generator) {
        case 0 where fetch.stateName == "resolving":
          count(fetch.resolveGranted(blocks: 4))
          if fetch.stateName == "granted" {
            count(fetch.bound(blocks: 4, at: now, deadlines: FetchStage.deadlines))
          }
        case 1: count(fetch.timePassed(at: now))
        case 2 where Bool.random(using: &generator): count(fetch.cancelled())
        case 3 where Bool.random(using: &generator): count(fetch.peerWentDown(at: now))
        case 4 where fetch.stateName == "confirming":
          count(fetch.confirmAnswered(.intact(4), at: now))
        case 5...9 where fetch.stateName != "resolving" && fetch.stateName != "granted":
          let rank = Int.random(in: 0..<ranks, using: &generator)
          landed[rank] = min(4, landed[rank] + 1)
          let all = landed[rank] == 4
          count(
            fetch.rankReported(
              rank,
              RankProgress(
                landed: landed[rank], posting: all ? .ended : .open,
                unquiet: Array(landed[rank]..<4), lastLanding: now,
                proved: all ? landed[rank] : nil), at: now))
        default: break
        }
        #expect(settles <= 1 && closes <= 1 && releases <= 1)
      }
      if fetch.stateName == "granted" { count(fetch.bindRefused()) }
      count(fetch.cancelled())
      for rank in 0..<ranks {
        if fetch.stateName == "draining" {
          count(fetch.rankReported(rank, RankProgress(landed: 4, posting: .ended), at: now))
        }
      }
      #expect(settles == 1 && closes == 1 && releases == 1)
      let isClosed = fetch.isClosed
      #expect(isClosed)
    }
  }

  @Test func `a rank that has not confirmed its stop may be writing any block after its prefix`() {
    var fetch = FetchStage(description: "moving").machine()
    _ = fetch.rankReported(
      0, RankProgress(landed: 1, posting: .open, unquiet: [1]),
      at: FetchStage.start)
    let actions = fetch.cancelled()
    #expect(
      actions.contains(
        .settle(FetchResult(valid: 0, matched: 4, unquiet: [1, 2, 3], reason: .cancelled))))
    drain(&fetch)
  }

  @Test func `the group keeps what every rank has proved, and no more`() {
    var fetch = FetchStage(description: "moving").machine(ranks: 3)
    for (rank, landed) in [4, 2, 3].enumerated() {
      _ = fetch.rankReported(
        rank,
        RankProgress(
          landed: landed, posting: .ended, failure: landed < 4 ? .backend("x") : nil),
        at: FetchStage.start)
    }
    let state = fetch.stateName
    #expect(state == "confirming")
    let actions = fetch.confirmAnswered(.intact(4), at: FetchStage.start)
    #expect(
      actions.contains(.settle(FetchResult(valid: 2, matched: 4, reason: .transferFailed))))
    drain(&fetch)
    // The same where digests decide, and prove different prefixes.
    var proved = FetchStage(description: "moving").machine(policy: .always, ranks: 3)
    func report(_ rank: Int, _ prefix: Int?) -> [FetchAction] {
      proved.rankReported(
        rank,
        RankProgress(landed: 4, posting: .ended, proved: prefix),
        at: FetchStage.start)
    }
    for rank in 0..<3 { _ = report(rank, nil) }
    _ = proved.confirmAnswered(.intact(4), at: FetchStage.start)
    let last = [4, 1, 3].enumerated().map { report($0, $1) }.last ?? []
    #expect(last.contains(.settle(FetchResult(valid: 1, matched: 4, reason: .notIntact))))
    drain(&proved)
  }

  @Test func `a grant that comes too late is given back`() {
    var fetch = FetchStage(description: "resolving").machine()
    // By its name, before it comes; and then there is nothing left to do.
    let ended = fetch.timePassed(at: FetchStage.start + .milliseconds(50))
    #expect(ended.first == .release(FetchStage.lease) && ended.count == 3)
    let late = fetch.resolveGranted(blocks: 4)
    #expect(late == [])
  }

  @Test func `a rank that says it has stalled ends the move, whatever the others do`() {
    var fetch = FetchStage(description: "moving, landed 2 of 4").machine(ranks: 2)
    let actions = fetch.rankReported(
      1,
      RankProgress(
        landed: 2, posting: .open, unquiet: [2, 3], stalledAt: FetchStage.start),
      at: FetchStage.start)
    #expect(actions == [.stopPosting, .checkDigests(leading: 2)])
    drain(&fetch)
  }

  @Test func `a pull whose rest would come later than computing it is stopped at a landing`() {
    // Half a second a block to compute, and 10 % of regret.
    for (milliseconds, stops) in [(540, false), (560, true)] {
      var fetch = FetchStage(description: "moving").machine()
      let actions = fetch.rankReported(
        0,
        RankProgress(
          landed: 2, posting: .open, unquiet: [2, 3], lastLanding: FetchStage.start,
          active: .milliseconds(2 * milliseconds)), at: FetchStage.start)
      #expect(actions.contains(.stopPosting) == stops, "\(milliseconds) ms a block")
      // Without a new landing there is nothing new to weigh.
      let again = fetch.rankReported(
        0,
        RankProgress(
          landed: 2, posting: .open, unquiet: [2, 3], active: .milliseconds(2 * milliseconds)),
        at: FetchStage.start)
      #expect(!again.contains(.stopPosting))
      drain(&fetch)
    }
  }

  @Test
  func `what was read from a mapping is proved by its words, and digested when always is asked`() {
    for (digests, settles) in [(ProofPolicy.onFailure, true), (.off, true), (.always, false)] {
      var fetch = FetchMachine(
        id: FetchID(1), request: RequestID(1), lease: FetchStage.lease, rankCount: 1,
        policy: digests, isMapped: true, at: FetchStage.start,
        resolveTimeout: .milliseconds(50), lateAfter: .milliseconds(5))
      _ = fetch.resolveGranted(blocks: 4)
      _ = fetch.bound(blocks: 4, at: FetchStage.start, deadlines: FetchStage.deadlines)
      let actions = fetch.rankReported(
        0, RankProgress(landed: 4, posting: .ended),
        at: FetchStage.start)
      let isConfirmed = actions.contains { if case .confirm = $0 { true } else { false } }
      let isSettled = fetch.isSettled
      #expect(isSettled == settles && !isConfirmed)
      drain(&fetch)
    }
  }

  /// Ends a machine so that its lease is not dropped.
  private func drain(_ machine: inout FetchMachine) {
    _ = machine.cancelled()
  }
}

struct TestGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return state ^ (state >> 29)
  }
}

/// Compares with the committed file. `RECORD_SNAPSHOTS=1` writes it instead, for review in the diff.
func expectSnapshot(_ text: String, _ name: String) throws {
  let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .appendingPathComponent("Snapshots/\(name)")
  if ProcessInfo.processInfo.environment["RECORD_SNAPSHOTS"] == "1" {
    try text.write(to: path, atomically: true, encoding: .utf8)
    return
  }
  let recorded = try String(contentsOf: path, encoding: .utf8).split(separator: "\n")
  let found = text.split(separator: "\n")
  #expect(recorded.count == found.count, "\(name) has \(recorded.count) lines, not \(found.count)")
  for (index, pair) in zip(recorded, found).enumerated() where pair.0 != pair.1 {
    Issue.record("\(name), line \(index + 1):\n  recorded \(pair.0)\n  found    \(pair.1)")
  }
}

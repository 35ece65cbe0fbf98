import Foundation
import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import Testing
import TransferRig

/// Abort, completion, failure, expiry and restart, in every order, as scripts that can be read; what
/// each led to is recorded beside it.
@Suite struct `Scenarios` {
  enum Act: String, CaseIterable {
    /// The client goes away.
    case abort
    /// What is posted lands.
    case land
    /// What is posted fails.
    case fail
    /// The source ends the lease, and says so to the next renewal.
    case expire
    /// The source dies and is back under another name.
    case restart
  }

  static let prompt = (0..<50).map { Int32($0 % 90) }

  /// Every order of some acts.
  static func orders(_ acts: [Act]) -> [[Act]] {
    if acts.isEmpty { return [[]] }
    return acts.indices.flatMap { index in
      var rest = acts
      let first = rest.remove(at: index)
      return orders(rest).map { [first] + $0 }
    }
  }

  /// Plays one script on a pull whose first two transfers landed and whose others hang.
  static func play(_ script: [Act], golden: RequestResult) throws -> String {
    let world = try ToyWorld { $0.ordinal >= 2 ? .hang : nil }
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    world.run(9)
    #expect((world.faulty.applied[.hang] ?? 0) > 0, "nothing was in flight")
    var peak = world.connector.open.quarantined
    for act in script {
      switch act {
      case .abort: world.engine.cancel(RequestID(1))
      case .land: world.faulty.resumeHung(at: world.clock.now)
      case .fail: world.faulty.failHung()
      case .expire:
        guard case .granted(let grant)? = world.grants.first else { continue }
        if world.control.stores[world.peer] != nil, world.peerStore.ledger.stats.leases > 0 {
          _ = world.peerStore.ledger.release(grant.lease, at: world.clock.now)
          world.control.answers.append(.leaseEnded(world.peer, grant.lease))
        }
      case .restart:
        world.fabric.kill(world.peer)
        world.control.stores[world.peer] = nil
        world.control.answers.append(.sourceDied(world.peer))
      }
      world.run(2)
      peak = max(peak, world.connector.open.quarantined)
    }
    let result = world.finish(1)
    let isAborted = script.contains(.abort) && result?.generated.count != 8
    if !isAborted { `The engine`.expectSame(result, golden) }
    // Whatever still hangs ends with its source.
    world.control.answers.append(.sourceDied(world.peer))
    world.run(40)
    let words = script.map(\.rawValue).joined(separator: ", ")
    #expect(world.leaks == [], "\(words)")
    #expect(world.control.releases.count == 1, "\(words): the lease ends once")
    #expect(world.events.count { $0.kind == .quieted } <= 1, "\(words)")
    let reasons = result?.account.reasons.map(\.rawValue).joined(separator: " ") ?? ""
    return "\(words) -> \(isAborted ? "aborted" : "golden tokens"), kept "
      + "\(result?.account.keptTokens ?? 0), \(reasons.isEmpty ? "no reason" : reasons), "
      + "at most \(peak) blocks in quarantine"
  }

  /// A file of scripts, one a line: `abort, land -> what it led to`. What comes after the arrow is
  /// recorded (RECORD_SNAPSHOTS=1 writes it again); what comes before is read, and played.
  @Test func `abort, completion, failure, expiry and restart end well in every order`() throws {
    let golden = try ToyWorld.golden(Self.prompt)
    let path = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().appendingPathComponent("Scenarios/orders.txt")
    let recorded = try String(contentsOf: path, encoding: .utf8)
    var played: Set<[Act]> = []
    var lines: [String] = []
    for line in recorded.split(separator: "\n") {
      let words = try #require(line.components(separatedBy: " -> ").first)
      let script = try words.components(separatedBy: ", ").map { word in
        try #require(Act(rawValue: word), "orders.txt: '\(word)' is none of \(Act.allCases)")
      }
      #expect(played.insert(script).inserted, "orders.txt: '\(words)' is there twice")
      lines.append(try Self.play(script, golden: golden))
    }
    let all = Self.orders(Act.allCases).flatMap { order in
      (1...order.count).map { Array(order.prefix($0)) }
    }
    #expect(Set(all).subtracting(played).isEmpty, "orders.txt lacks an order")
    let text = lines.joined(separator: "\n") + "\n"
    if ProcessInfo.processInfo.environment["RECORD_SNAPSHOTS"] != nil {
      try text.write(to: path, atomically: true, encoding: .utf8)
    }
    #expect(text == recorded, "run with RECORD_SNAPSHOTS=1 and read the difference")
  }
}

@Suite struct `Memory pressure` {
  @Test(arguments: 14...24) func `loads never lock each other out of a small pool`(blocks: Int)
    throws
  {
    // Six requests of 13 blocks, all with something to pull, and room for one or two of them.
    let world = try ToyWorld(blocks: blocks)
    let prompts = samplePrompts(6, tokens: 48)
    for prompt in prompts { try world.fillPeer(prompt, blocks: 8) }
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt, generate: 4)
    }
    for (index, prompt) in prompts.enumerated() {
      `The engine`.expectSame(
        world.finish(UInt64(index + 1)), try ToyWorld.golden(prompt, generate: 4))
    }
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a full quarantine turns a peer off, and serving goes on`() throws {
    let limits = Limits { $0.quarantinePerSourceFractionMax = 0.05 }
    let world = try ToyWorld(limits: limits) { _ in .hang }
    let prompts = samplePrompts(3, tokens: 50)
    for prompt in prompts { try world.fillPeer(prompt) }
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt)
      `The engine`.expectSame(world.finish(UInt64(index + 1)), try ToyWorld.golden(prompt))
    }
    #expect(world.connector.open.quarantined >= 3)
    #expect((world.connector.fallbacks[.quarantineFull] ?? 0) >= 1)
    world.control.answers.append(.sourceDied(world.peer))
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a preempted request takes a new lease or computes, and never waits on the old one`()
    throws
  {
    let world = try ToyWorld(blocks: 17) { _ in .slow }
    let prompts = samplePrompts(3, tokens: 40)
    for prompt in prompts { try world.fillPeer(prompt) }
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt, generate: 20)
    }
    var preemptions = 0
    for (index, prompt) in prompts.enumerated() {
      let result = world.finish(UInt64(index + 1))
      `The engine`.expectSame(result, try ToyWorld.golden(prompt, generate: 20))
      preemptions += result?.account.preemptions ?? 0
    }
    #expect(preemptions > 0, "nothing was preempted, so this shows nothing")
    world.run(30)
    #expect(world.leaks == [])
  }

  @Test func `a connector that is turned off costs its peers, not its requests`() throws {
    let world = try ToyWorld()
    let prompt = (0..<50).map { Int32($0 % 90) }
    try world.fillPeer(prompt)
    world.connector.turnOff()
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 0)
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `at shutdown every lease is given back`() throws {
    let world = try ToyWorld { _ in .slow }
    let prompt = (0..<50).map { Int32($0 % 90) }
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    world.run(6)
    #expect(world.peerStore.ledger.stats.leases == 1)
    world.connector.shutDown(at: world.clock.now)
    #expect(world.peerStore.ledger.stats.leases == 0)
    world.run(40)
  }
}

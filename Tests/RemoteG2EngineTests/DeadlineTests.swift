import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Testing
import TransferRig

/// Whom a deadline blames.
@Suite struct `Deadlines` {
  static let prompts = samplePrompts(2, tokens: 50)

  @Test func `a fetch that waits behind another of the same peer is not given up`() throws {
    let limits = Limits { $0.transfersPostedMax = 1 }
    let world = try ToyWorld(limits: limits) { _ in .slow }
    for prompt in Self.prompts { try world.fillPeer(prompt) }
    for (index, prompt) in Self.prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt)
    }
    for (index, prompt) in Self.prompts.enumerated() {
      let result = world.finish(UInt64(index + 1))
      #expect(result?.account.keptTokens == 48 && result?.account.reasons == [])
      `The engine`.expectSame(result, try ToyWorld.golden(prompt))
    }
  }

  @Test func `a pump that comes late is not taken for a silent source`() throws {
    // The bound on a whole pull is the leader's own clock's, and another matter.
    let limits = Limits { $0.hardDeadlineMin = .seconds(20) }
    let world = try ToyWorld(limits: limits)
    try world.fillPeer(Self.prompts[0])
    try world.submit(1, Self.prompts[0])
    // Every second poll lands something, and the processor is ours once in a fifth of a second.
    world.run(40, each: .milliseconds(200))
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 48 && result?.account.reasons == [])
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompts[0]))
  }

  @Test(arguments: 4..<20)
  func `a pump that was busy fencing another peer's agent is not taken for a silent source`(
    at step: Int
  ) throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompts[0])
    try world.submit(1, Self.prompts[0])
    world.run(step)
    world.run(1, each: .milliseconds(150))
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 48 && result?.account.reasons == [])
  }

  @Test func `a silent source is given up though the pump is often late`() throws {
    let world = try ToyWorld { $0.ordinal == 2 ? .hang : nil }
    try world.fillPeer(Self.prompts[0])
    try world.submit(1, Self.prompts[0])
    world.run(8)
    let stopped = world.clock.now
    world.run(100, each: .milliseconds(40))
    let result = world.finish(1)
    #expect(result?.account.reasons == [.stalled])
    let settled = try #require(result?.account.settledAt)
    #expect(settled - stopped < .seconds(1), "it took \(settled - stopped)")
    `The engine`.expectSame(result, try ToyWorld.golden(Self.prompts[0]))
  }
}

/// Who goes first.
@Suite struct `Scheduling` {
  static let long = (0..<240).map { Int32($0 * 7 % 90) }
  static let short = (0..<50).map { Int32($0 % 90) }

  @Test func `a request whose prefix was pulled does not wait for another's whole prefill`()
    throws
  {
    let limits = Limits { $0.stepTokensMax = 8 }
    let world = try ToyWorld(blocks: 128, limits: limits)
    try world.fillPeer(Self.short)
    try world.submit(1, Self.long, generate: 4, hinted: false)
    world.run(2)
    try world.submit(2, Self.short, generate: 4)
    let result = world.finish(2)
    #expect(result?.account.keptTokens == 48)
    let waited = try #require(result?.account.timeToFirstToken)
    // The prefill takes 30 steps of a millisecond, the pull 14.
    #expect(waited <= .milliseconds(20), "it waited \(waited)")
    `The engine`.expectSame(world.finish(1), try ToyWorld.golden(Self.long, generate: 4))
  }

  @Test func `beside a pull a prefill takes small steps, and whole ones before and after it`()
    throws
  {
    let limits = Limits {
      $0.stepTokensMax = 16
      $0.stepTokensBesideLoads = 4
    }
    let world = try ToyWorld(blocks: 128, limits: limits)
    try world.fillPeer(Self.short)
    try world.submit(1, Self.long, generate: 1, hinted: false)
    var steps: [Int] = []
    world.engine.onForward = { tokens, _ in steps.append(tokens) }
    world.run(2)
    try world.submit(2, Self.short, generate: 1)
    let pulled = world.finish(2)
    #expect(pulled?.account.keptTokens == 48)
    let result = world.finish(1)
    `The engine`.expectSame(result, try ToyWorld.golden(Self.long, generate: 1))
    #expect(steps.prefix(2) == [16, 16])
    let small = steps.count { $0 == 4 }
    #expect(small >= 3, "the steps had \(steps) tokens")
    // All of the long prompt, and what was not pulled of the short one.
    #expect(steps.reduce(0, +) == Self.long.count + 2)
    #expect(steps.suffix(3).first == 16, "the steps had \(steps) tokens")
  }

  @Test func `a long prompt is overtaken in a bounded number of steps in a row`() throws {
    let limits = Limits { $0.stepTokensMax = 8 }
    let world = try ToyWorld(blocks: 512, limits: limits)
    try world.submit(1, Self.long, generate: 4, hinted: false)
    world.run(1)
    // Each takes a whole step, and another comes in every step.
    for number in 2..<60 {
      let prompt = (0..<8).map { Int32(($0 * 5 + number) % 90) }
      try world.submit(UInt64(number), prompt, generate: 1, hinted: false)
    }
    // Thirty steps of its own, and at most eight of others before each.
    let result = world.finish(1, within: 30 * 9)
    `The engine`.expectSame(result, try ToyWorld.golden(Self.long, generate: 4))
    let waited = try #require(result?.account.timeToFirstToken)
    #expect(waited > .milliseconds(58), "nothing overtook it, so this shows nothing: \(waited)")
  }
}

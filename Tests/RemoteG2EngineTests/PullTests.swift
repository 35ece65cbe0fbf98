import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import Testing
import TransferRig

/// What an engine keeps of a pull, and what its result says of the rest.
@Suite struct `Pulls` {
  static let prompt = (0..<50).map { Int32($0 % 90) }

  @Test(arguments: [45, 46, 47, 48, 49, 50, 51, 52])
  func `of any prompt all whole blocks but the last token's are asked for`(count: Int) throws {
    let prompt = (0..<count).map { Int32($0 % 90) }
    let world = try ToyWorld()
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(result?.account.keptTokens == (count - 1) / 4 * 4)
    #expect(result?.account.computedPromptTokens == count - (count - 1) / 4 * 4)
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test(arguments: Array(0..<12))
  func `with k of n blocks here, the other n - k land in their places`(
    local: Int
  ) throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld()
    if local > 0 {
      try world.submit(1, Array(prompt.prefix(local * 4 + 1)), generate: 1, hinted: false)
      _ = world.finish(1)
    }
    try world.fillPeer(prompt)
    try world.submit(2, prompt)
    let result = world.finish(2)
    #expect(result?.account.cachedTokens == local * 4)
    #expect(result?.account.keptTokens == (12 - local) * 4)
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `the first miss ends the plan`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld()
    try world.fillPeer(prompt, blocks: 5)
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 20 && result?.account.reasons == [])
    #expect(world.events.contains { $0.kind == .truncated && $0.blocks == 5 })
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `a stale hint is answered gone in one round trip, and counted as that`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld()
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(world.connector.fallbacks == [.gone: 1])
    let waited = (result?.account.firstTokenAt).map { $0 - (result?.account.submittedAt ?? $0) }
    #expect((waited ?? .seconds(9)) <= .milliseconds(10), "it waited for a deadline")
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `a store over its budget refuses, and the request does not wait`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let limits = Limits { $0.leasesMax = 1 }
    let world = try ToyWorld(limits: limits)
    try world.fillPeer(prompt)
    _ = world.peerStore.ledger.resolve(
      world.chain.keys(of: prompt), ttl: nil, at: world.clock.now)
    try world.submit(1, prompt)
    let result = world.finish(1)
    #expect(world.connector.fallbacks == [.overBudget: 1])
    `The engine`.expectSame(result, try ToyWorld.golden(prompt))
  }

  @Test func `what landed before a late judgement counts`() throws {
    // Steps of ten seconds: every deadline passes in the step that also brings the landings.
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld(blocksPerPoll: 100)
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    world.run(3)
    world.run(6, each: .seconds(10))
    let result = world.finish(1)
    #expect(result?.account.keptTokens == 48 && result?.account.reasons == [])
  }

  @Test func `one failure does not keep a healthy peer from the next request`() throws {
    let prompt = (0..<50).map { Int32($0 % 90) }
    let world = try ToyWorld { $0.fetch == FetchID(1) ? .failAtPost : nil }
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    _ = world.finish(1)
    world.engine.dropCache()
    try world.submit(2, prompt)
    #expect(world.finish(2)?.account.keptTokens == 48)
  }

  @Test func `the counted fallbacks are those that were told, each with its peer and reason`()
    throws
  {
    let prompts = samplePrompts(4, tokens: 50)
    let world = try ToyWorld { $0.fetch.value % 2 == 0 && $0.ordinal == 1 ? .failAtPost : nil }
    for prompt in prompts { try world.fillPeer(prompt) }
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt)
      _ = world.finish(UInt64(index + 1))
    }
    let told = world.events.filter { $0.kind == .fallback }
    #expect(told.count == 2 && world.connector.fallbacks == [.transferFailed: 2])
    #expect(
      told.allSatisfy { $0.source == .peer("P") && $0.reason == .transferFailed && $0.fetch != nil }
    )
    #expect(Set(told.map(\.request)).count == 2, "one per request")
  }

  @Test func `every decision not to pull is a reason in the request's result`() throws {
    func reasons(_ prepare: (ToyWorld) throws -> Void) throws -> [FallbackReason]? {
      let world = try ToyWorld()
      try prepare(world)
      try world.submit(1, Self.prompt)
      let result = world.finish(1)
      `The engine`.expectSame(result, try ToyWorld.golden(Self.prompt))
      #expect(world.connector.fallbacks.values.reduce(0, +) == result?.account.reasons.count)
      return result?.account.reasons
    }
    #expect(try reasons { _ in } == [.gone])
    #expect(try reasons { $0.control.peers["P"] = .off } == [.peerOff])
    #expect(try reasons { $0.control.peers["P"] = .notReady } == [.peerNotReady])
    #expect(try reasons { $0.control.peers["P"] = nil } == [.unknownPeer])
    #expect(
      try reasons { world in
        let mismatch = Fingerprint.Mismatch(field: "f", ours: "1", theirs: "2")
        world.control.peers["P"] = .refused(mismatch)
      } == [.incompatible])
    #expect(
      try reasons { world in
        try world.fillPeer(Self.prompt)
        world.control.isSilent = true
      } == [.resolveTimedOut])
  }
}

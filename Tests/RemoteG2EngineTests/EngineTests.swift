import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Testing
import TransferRig

@Suite struct `The engine` {
  static let prompt = (0..<50).map { Int32($0 % 90) }

  static func expectSame(
    _ result: RequestResult?, _ golden: RequestResult, location: SourceLocation = #_sourceLocation
  ) {
    #expect(result?.generated == golden.generated, sourceLocation: location)
    #expect(result?.logitsDigest == golden.logitsDigest, sourceLocation: location)
    #expect(result?.kvDigest == golden.kvDigest, sourceLocation: location)
    #expect(result?.error == nil, sourceLocation: location)
  }

  @Test func `a prompt is pulled, all but its last token, and gives the tokens it would alone`()
    throws
  {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    Self.expectSame(result, try ToyWorld.golden(Self.prompt))
    #expect(result?.account.keptTokens == 48)
    #expect(result?.account.computedPromptTokens == 2)
    #expect(result?.account.reasons == [])
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a prompt of whole blocks still computes its last token`() throws {
    let prompt = Array(Self.prompt.prefix(48))
    let world = try ToyWorld()
    try world.fillPeer(prompt)
    try world.submit(1, prompt)
    let result = world.finish(1)
    Self.expectSame(result, try ToyWorld.golden(prompt))
    #expect(result?.account.keptTokens == 44)
  }

  @Test(arguments: TransferFault.pulled, [0, 2, 5])
  func `whatever goes wrong with a transfer, the tokens are those it would produce alone`(
    fault: TransferFault, ordinal: Int
  ) throws {
    let world = try ToyWorld(proof: .always) { $0.ordinal == ordinal ? fault : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    #expect(world.faulty.applied[fault] == 1, "the fault did not happen")
    Self.expectSame(result, try ToyWorld.golden(Self.prompt))
    let kept = result?.account.keptTokens ?? 0
    if fault == .slow {
      #expect(kept == 48)
    } else {
      #expect(kept == ordinal * 2 * 4, "what landed before the fault is kept")
    }
    // A hang ends only when its source is proved dead.
    if fault == .hang {
      #expect(world.connector.open.quarantined > 0)
      world.control.answers.append(.sourceDied(world.peer))
    }
    world.run(60)
    #expect(world.leaks == [])
  }

  @Test func `without proof a corrupt block gives other tokens, so the tests above can fail`()
    throws
  {
    let world = try ToyWorld(proof: .off) { $0.ordinal == 2 ? .corrupt : nil }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    #expect(world.finish(1)?.generated != (try ToyWorld.golden(Self.prompt)).generated)
  }

  @Test func `a pull that ends after its lease keeps only what the digests prove`() throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    world.control.confirmAnswer = .some(.some(.intact(3)))
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    // Nothing was reused, so every digest holds though confirm would not vouch.
    Self.expectSame(result, try ToyWorld.golden(Self.prompt))
    #expect(result?.account.keptTokens == 48)
  }

  @Test func `a source that never answers costs its deadline and nothing else`() throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    world.control.isSilent = true
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    Self.expectSame(result, try ToyWorld.golden(Self.prompt))
    #expect(world.connector.fallbacks[.resolveTimedOut] == 1)
    let waited = (result?.account.firstTokenAt).map { $0 - (result?.account.submittedAt ?? $0) }
    #expect((waited ?? .seconds(9)) < Limits().resolveMin + .milliseconds(20))
  }

  @Test func `sharers of a loading prefix are released by the same settle`() throws {
    let world = try ToyWorld()
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    world.run(2)
    try world.submit(2, Self.prompt + [3, 1, 4])
    let first = world.finish(1)
    let second = world.finish(2)
    Self.expectSame(first, try ToyWorld.golden(Self.prompt))
    Self.expectSame(second, try ToyWorld.golden(Self.prompt + [3, 1, 4]))
    #expect(second?.account.cachedTokens == 48)
    #expect(world.events.count { $0.kind == .started } == 1, "the shared blocks moved once")
  }

  @Test func `cancelling a loading request aborts its load and gives everything back`() throws {
    let world = try ToyWorld { _ in .lateLanding }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    world.run(4)
    world.engine.cancel(RequestID(1))
    world.engine.cancel(RequestID(1))
    world.run(2)
    #expect(world.connector.open.quarantined > 0, "the blocks may still be written")
    world.run(80)
    #expect(world.leaks == [])
    #expect(world.control.releases.count == 1, "the lease ends exactly once")
    try world.submit(2, Self.prompt, hinted: false)
    Self.expectSame(world.finish(2), try ToyWorld.golden(Self.prompt))
  }

  @Test func `with the policy fail only the affected request ends, with a typed error`() throws {
    let world = try ToyWorld(policy: .fail) {
      $0.fetch == FetchID(1) && $0.ordinal == 1 ? .failAtPost : nil
    }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    let other = Self.prompt.reversed().map { $0 }
    try world.submit(2, other, hinted: false)
    #expect(world.finish(1)?.error == .loadFailed(.transferFailed))
    Self.expectSame(world.finish(2), try ToyWorld.golden(other))
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `chunking and batch mates change no bit`() throws {
    let prompts = (1...5).map { seed in (0..<(40 + seed * 7)).map { Int32(($0 * seed) % 90) } }
    let world = try ToyWorld(blocks: 256)
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt, hinted: false)
    }
    for (index, prompt) in prompts.enumerated() {
      Self.expectSame(world.finish(UInt64(index + 1)), try ToyWorld.golden(prompt))
    }
  }

  @Test func `with too few blocks for all, requests are preempted and all finish right`() throws {
    let prompts = (1...4).map { seed in (0..<40).map { Int32(($0 * seed + seed) % 90) } }
    let world = try ToyWorld(blocks: 17)
    for (index, prompt) in prompts.enumerated() {
      try world.submit(UInt64(index + 1), prompt, generate: 20, hinted: false)
    }
    var preemptions = 0
    for (index, prompt) in prompts.enumerated() {
      let result = world.finish(UInt64(index + 1))
      Self.expectSame(result, try ToyWorld.golden(prompt, generate: 20))
      preemptions += result?.account.preemptions ?? 0
    }
    #expect(preemptions > 0, "nothing was preempted, so this shows nothing")
    #expect(world.leaks == [])
  }

  @Test func `computed blocks are saved, and reloaded from the store's mapping`() throws {
    let world = try ToyWorld(hasLocal: true)
    try world.submit(1, Self.prompt, hinted: false)
    let golden = world.finish(1)
    world.run(30)
    #expect(world.leaks == [])
    world.engine.dropCache()
    try world.submit(2, Self.prompt, hinted: false)
    let again = world.finish(2)
    #expect(again?.account.reloadedTokens == 48)
    #expect(again?.generated == golden?.generated && again?.kvDigest == golden?.kvDigest)
  }

  @Test func `a request that can never run is refused with the reason`() throws {
    let world = try ToyWorld(blocks: 4)
    #expect(throws: RequestError.emptyPrompt) { try world.submit(1, []) }
    #expect(throws: RequestError.needsTooManyBlocks(needed: 15, pool: 4)) {
      try world.submit(1, Self.prompt)
    }
    #expect(throws: RequestError.token(97, vocabularySize: 97)) { try world.submit(1, [97]) }
    #expect(throws: RequestError.generation(tokens: 0)) { try world.submit(1, [1], generate: 0) }
    try world.submit(1, [1, 2, 3])
    #expect(throws: RequestError.duplicate(RequestID(1))) { try world.submit(1, [1, 2, 3]) }
    let short = try ToyWorld(limits: Limits { $0.promptTokensMax = 10 })
    #expect(throws: RequestError.promptTooLong(tokens: 11, max: 10)) {
      try short.submit(1, [1, 2, 3, 4, 5, 6, 7, 8, 9], generate: 2)
    }
    try short.submit(1, [1, 2, 3, 4, 5, 6, 7, 8], generate: 2)
  }

  @Test func `an engine whose peer is unknown, unready or unlike computes by itself`() throws {
    let mismatch = Fingerprint.Mismatch(field: "model", ours: "a", theirs: "b")
    let states: [(PeerState, FallbackReason)] = [
      (.unknown, .unknownPeer), (.notReady, .peerNotReady), (.refused(mismatch), .incompatible),
    ]
    for (state, reason) in states {
      let world = try ToyWorld()
      world.control.peers["P"] = state
      try world.submit(1, Self.prompt)
      Self.expectSame(world.finish(1), try ToyWorld.golden(Self.prompt))
      #expect(world.connector.fallbacks == [reason: 1])
    }
  }
}

extension TransferFault {
  static let pulled: [TransferFault] = [
    .failAtPost, .halfComplete, .hang, .slow, .corrupt, .lateLanding, .refuseRelease, .peerGone,
  ]
}

@Suite struct `A fetch and its request` {
  static let prompt = (0..<50).map { Int32($0 % 90) }

  @Test func `a fetch whose blocks were computed meanwhile is given back, and blocks nobody`()
    throws
  {
    let world = try ToyWorld()
    let prompt = Array(Self.prompt.prefix(49))
    try world.fillPeer(prompt)
    // The first computes the prompt in its first step; the second's resolve is not answered before.
    world.control.isSilent = true
    try world.submit(1, prompt, generate: 30, hinted: false)
    try world.submit(2, prompt, generate: 4)
    world.run(3)
    world.control.isSilent = false
    // The network delivers late what it was given, in order.
    for request in world.control.posted { world.control.post(request) }
    #expect(world.finish(2)?.error == nil)
    _ = world.finish(1)
    world.run(10)
    #expect(world.leaks == [])
    world.engine.dropCache()
    try world.submit(3, prompt, generate: 4)
    #expect(world.finish(3)?.account.keptTokens == 48, "a later request still pulls")
  }

  @Test func `only what is posted stays in quarantine once the ranks have stopped`() throws {
    let world = try ToyWorld { _ in .hang }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    let result = world.finish(1)
    #expect(result?.error == nil && result?.account.keptTokens == 0)
    world.run(3)
    let posted = Limits().transfersPostedMax * 2
    #expect(world.connector.open.quarantined == posted)
    world.control.answers.append(.sourceDied(world.peer))
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a request whose blocks stay in quarantine ends with a reason, not never`() throws {
    let world = try ToyWorld(blocks: 16) { _ in .hang }
    try world.fillPeer(Self.prompt)
    try world.submit(1, Self.prompt)
    world.run(300)
    #expect(world.connector.open.quarantined > 0)
    world.run(60, each: .seconds(1))
    guard case .starved? = world.finish(1, within: 1)?.error else {
      Issue.record("it is still waiting")
      return
    }
    world.control.answers.append(.sourceDied(world.peer))
    world.run(5)
    #expect(world.leaks == [])
  }

  @Test func `a newcomer never takes blocks from those before it`() throws {
    let world = try ToyWorld(blocks: 14)
    try world.submit(1, Array(Self.prompt.prefix(40)), generate: 16, hinted: false)
    world.run(2)
    try world.submit(2, Array(Self.prompt.suffix(40)), generate: 4, hinted: false)
    let first = world.finish(1)
    #expect(first?.account.preemptions == 0)
    #expect(world.finish(2)?.error == nil)
  }
}

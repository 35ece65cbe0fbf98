import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Simulation
import Testing
import TransferRig

/// What an engine puts into its own store: right bytes under right names, and in the end all of them.
@Suite struct `Saving` {
  static let prompts = samplePrompts(3, tokens: 50)

  @Test(arguments: 3..<9)
  func `a store that replaces another in the middle of a save gets nothing meant for that one`(
    late: Int
  ) throws {
    // Long enough to fill blocks while the first one's save is under way.
    let whole = try Self.prompts.prefix(2).map {
      $0 + (try ToyWorld.golden($0, generate: 20)).generated
    }
    let right = try whole.map { try ToyWorld().blocks(of: $0) }
    var sealed = 0
    for steps in late..<2 * late + 4 {
      let world = try ToyWorld(hasLocal: true)
      world.control.lateSteps = late
      try world.submit(1, Self.prompts[0], generate: 20, hinted: false)
      try world.submit(2, Self.prompts[1], generate: 20, hinted: false)
      world.run(steps)
      world.replaceLocal(3)
      for step in 0..<140 {
        world.run(1)
        for (tokens, bytes) in zip(whole, right) {
          let found = world.inLocal(tokens, bytes)
          #expect(found.wrong == [], "\(step) steps after a death at step \(steps)")
          sealed += found.sealed
        }
      }
      world.run(300)
      #expect(world.leaks == [])
    }
    #expect(sealed > 0, "nothing was saved at all")
  }

  @Test(arguments: 1..<8)
  func `a writer that was stopped for long, and goes on, changes no sealed byte`(
    steps: Int
  ) throws {
    let world = try ToyWorld(hasLocal: true)
    try world.submit(1, Self.prompts[0], generate: 4, hinted: false)
    world.run(steps)
    // Longer than any deadline; another engine uses the store meanwhile.
    world.clock.now = world.clock.now + .seconds(300)
    world.control.ownStore?.ledger.expireDue(at: world.clock.now)
    try world.saveAsAnother(Self.prompts[1])
    try world.saveAsAnother(Self.prompts[2])
    world.run(100)
    #expect(try world.inLocal(Self.prompts[1]).sealed == 12)
    for prompt in Self.prompts { #expect(try world.inLocal(prompt).wrong == []) }
    #expect(world.leaks == [])
  }

  @Test func `a block that arrived wrong is not saved under its name`() throws {
    // The source vouches, so nobody looked at the digests before.
    let world = try ToyWorld(hasLocal: true) { $0.ordinal == 2 ? .corrupt : nil }
    try world.fillPeer(Self.prompts[0])
    try world.submit(1, Self.prompts[0])
    #expect(world.finish(1)?.account.keptTokens == 48)
    #expect(world.faulty.applied[.corrupt] == 1)
    world.run(20)
    #expect(try world.inLocal(Self.prompts[0]).wrong == [])
    // Nor when its prefix is used again.
    try world.submit(2, Self.prompts[0], hinted: false)
    _ = world.finish(2)
    world.run(20)
    #expect(try world.inLocal(Self.prompts[0]).wrong == [])
    #expect(try world.inLocal(Self.prompts[0]).sealed > 0)
  }

  @Test func `what was computed before the store was attached is saved`() throws {
    let world = try ToyWorld()
    try world.submit(1, Self.prompts[0], hinted: false)
    _ = world.finish(1)
    world.replaceLocal(3)
    world.run(30)
    try world.submit(2, Self.prompts[0], hinted: false)
    _ = world.finish(2)
    world.run(30)
    #expect(try world.inLocal(Self.prompts[0]) == (12, []))
  }

  @Test func `what a restarted store lacks is saved again when it is used`() throws {
    let world = try ToyWorld(hasLocal: true)
    try world.submit(1, Self.prompts[0], hinted: false)
    _ = world.finish(1)
    world.run(30)
    #expect(try world.inLocal(Self.prompts[0]) == (12, []))
    world.replaceLocal(3)
    world.run(5)
    try world.submit(2, Self.prompts[0], hinted: false)
    _ = world.finish(2)
    world.run(30)
    #expect(try world.inLocal(Self.prompts[0]) == (12, []))
  }

  @Test func `what is used while the store is away is saved when it is back`() throws {
    let world = try ToyWorld(hasLocal: true)
    try world.submit(1, Self.prompts[0], hinted: false)
    _ = world.finish(1)
    world.run(30)
    world.loseLocal()
    world.run(2)
    try world.submit(2, Self.prompts[0], hinted: false)
    _ = world.finish(2)
    world.replaceLocal(3)
    world.run(40)
    #expect(try world.inLocal(Self.prompts[0]) == (12, []))
  }

  @Test func `a rank whose connection to the store ended is connected again, and saves`() throws {
    let world = try ToyWorld(hasLocal: true)
    let link = try #require(world.rankLinks.all.last)
    link.hangUp()
    try world.submit(1, Self.prompts[0], hinted: false)
    _ = world.finish(1)
    world.run(600)
    #expect(world.rankLinks.all.count == 2)
    #expect(try world.inLocal(Self.prompts[0]) == (12, []))
    let offers = world.control.posted.count { if case .offer = $0 { true } else { false } }
    #expect(offers < 30, "it was offered \(offers) times")
    #expect(world.leaks == [])
  }

  @Test func `what was too much at once is saved a little later`() throws {
    let limits = Limits { $0.storeSavesInFlightMax = 4 }
    let world = try ToyWorld(hasLocal: true, limits: limits)
    try world.submit(1, Self.prompts[0], hinted: false)
    _ = world.finish(1)
    world.run(40)
    try world.submit(2, Self.prompts[0], hinted: false)
    _ = world.finish(2)
    world.run(40)
    #expect(try world.inLocal(Self.prompts[0]) == (12, []))
    #expect(world.leaks == [])
  }
}

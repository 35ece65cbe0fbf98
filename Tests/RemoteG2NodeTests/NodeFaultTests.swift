import ContentDigest
import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Library
import RemoteG2Node
import Testing

/// What must hold when memory changes hands at the worst moment.
@Suite(.serialized) struct `A copy from a node's pool` {
  static let keys = (0..<4).map { BlockKey(high: UInt64($0), low: 31) }
  static let others = (0..<4).map { BlockKey(high: UInt64($0), low: 32) }
  static func content(_ place: Int) -> UInt64 { 0x2000 + UInt64(place) }
  static func otherContent(_ place: Int) -> UInt64 { 0x3000 + UInt64(place) }
  /// Bytes for four blocks.
  static let memory = 4 * NodeEngine.layers * NodeEngine.page

  /// An engine whose load of all keys is planned, and not carried out.
  static func planned(_ node: TestNode) throws -> (engine: NodeEngine, plan: StagedPlan) {
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(keys, content)
    #expect(comes { node.sealed == 4 })
    let id = RequestID(77)
    engine.engine.newRequest(id, keys: keys)
    // A fraction of the pool's blocks may be pinned at once.
    #expect(
      engine.comes { engine.engine.match(id, local: 0, most: 3) == .ready(blocks: 3) })
    #expect(engine.engine.bind(id, local: 0, targets: (8..<11).map { BlockIndex($0) }))
    return (engine, engine.engine.plan(tokens: 0))
  }

  @Test func `of slots that hold other keys by now is refused block by block`() throws {
    let node = try TestNode("a", memoryBytes: Self.memory)
    defer { node.stop() }
    let (engine, plan) = try Self.planned(node)
    #expect(plan.loads.first?.moves.count == 3)
    engine.rank.begin(plan)
    // The scheduler half dies: its leases go, and another engine's blocks take the slots.
    engine.dropScheduler()
    #expect(comes { node.report.pools[0].leases == 0 })
    let other = try NodeEngine(node.socket)
    #expect(other.comes { other.engine.isAttached })
    other.step()
    other.save(Self.others, Self.otherContent)
    #expect(comes { node.report.pools[0].evicted >= 4 && node.sealed == 4 })
    _ = engine.rank.load()
    let report = engine.rank.takeReport()
    #expect(report?.loaded == [.init(request: RequestID(77), isWhole: false)])
    #expect(engine.rank.takeErrors() == (8..<11).map { BlockIndex($0) })
  }

  @Test func `of a pool whose node was replaced is right, or refused by the pool's name`() throws {
    let node = try TestNode("a", memoryBytes: Self.memory)
    let (engine, plan) = try Self.planned(node)
    node.node.stop()
    let successor = try Node(node.configuration)
    defer {
      successor.stop()
      try? FileManager.default.removeItem(atPath: node.configuration.directory)
    }
    // Refilled with other keys, in the same slots and generations.
    let other = try NodeEngine(node.socket)
    #expect(other.comes { other.engine.isAttached })
    other.step()
    other.save(Self.others, Self.otherContent)
    #expect(comes { successor.look(\.report).pools.first?.sealed == 4 })
    // A rank that attached before has the old pool's memory, as it was.
    engine.rank.begin(plan)
    _ = engine.rank.load()
    let loaded = engine.rank.takeReport()?.loaded
    if loaded == [.init(request: RequestID(77), isWhole: true)] {
      #expect((0..<3).map { engine.content(8 + $0) } == (0..<3).map(Self.content))
    } else {
      #expect(engine.rank.takeErrors().count == 3)
    }
    // One that attaches now finds another pool, and takes nothing from it.
    let late = try NodeEngine(node.socket)
    late.rank.begin(plan)
    _ = late.rank.load()
    #expect(late.rank.takeReport()?.loaded == [.init(request: RequestID(77), isWhole: false)])
    #expect(late.rank.takeErrors() == (8..<11).map { BlockIndex($0) })
    #expect((8..<11).allSatisfy { late.isUntouched($0) })
  }

  @Test func `whose engine scribbles over its pages after the step seals what the step had`() throws
  {
    let node = try TestNode("a")
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    for place in 0..<4 { engine.compute(place, Self.content(place)) }
    let id = RequestID(5)
    engine.engine.newRequest(id, keys: Self.keys)
    #expect(engine.comes { engine.engine.match(id, local: 0, most: 4) == .none })
    engine.engine.scheduled(
      id, computed: 0, scheduled: 64, keys: [], blocks: (0..<4).map { BlockIndex($0) },
      isWhole: true)
    engine.rank.begin(engine.engine.plan(tokens: 64))
    _ = engine.rank.load()
    engine.rank.stage()
    // The request is preempted and its pages are another's before anybody has committed them.
    for place in 0..<4 { engine.compute(place, 0xBAD) }
    engine.engine.finished(id)
    engine.engine.absorb([try #require(engine.rank.takeReport())])
    #expect(comes { node.sealed == 4 })
    #expect(engine.load(Self.keys, into: 8) == 4)
    #expect((0..<4).map { engine.content(8 + $0) } == (0..<4).map(Self.content))
  }

  @Test func `that an engine did not commit is sealed by nobody, and its memory comes back`() throws
  {
    let node = try TestNode("a")
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    let id = RequestID(5)
    engine.engine.newRequest(id, keys: Self.keys)
    #expect(engine.comes { engine.engine.match(id, local: 0, most: 4) == .none })
    engine.engine.scheduled(
      id, computed: 0, scheduled: 64, keys: [], blocks: (0..<4).map { BlockIndex($0) },
      isWhole: true)
    engine.rank.begin(engine.engine.plan(tokens: 64))
    engine.rank.stage()
    #expect(comes { node.report.pools[0].staged == 4 })
    engine.dropScheduler()
    #expect(comes { node.held == 0 })
    #expect(node.sealed == 0)
  }
}

@Suite(.serialized) struct `A node's streams` {
  static let keys = `A copy from a node's pool`.keys
  static let terms = PoolTerms(
    fingerprint: NodeEngine.model().fingerprint, blockBytes: NodeEngine.model().blockBytes)

  /// A node that has the keys, and the engine that saved them.
  static func filled(_ memory: Int = 1 << 20, limits: Limits = Limits()) throws -> (
    TestNode, NodeEngine
  ) {
    let node = try TestNode("a", memoryBytes: memory, limits: limits)
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(keys, `A copy from a node's pool`.content)
    #expect(comes { node.sealed == 4 })
    return (node, engine)
  }

  @Test func `a slot that is overwritten right after the last send was sent as it was`() throws {
    let (node, engine) = try Self.filled(`A copy from a node's pool`.memory)
    defer { node.stop() }
    let reader = try #require(RawReader(node.node.port))
    reader.ask(Self.keys, Self.terms)
    #expect(comes { node.report.bytesServed == UInt64(4 * Self.terms.blockBytes) })
    // Every slot gets other bytes before the reader has read one.
    engine.save(`A copy from a node's pool`.others, `A copy from a node's pool`.otherContent)
    #expect(comes { node.report.pools[0].evicted >= 4 && node.sealed == 4 })
    guard case .welcome? = reader.message() else {
      Issue.record("no welcome")
      return
    }
    for position in 0..<4 {
      guard case .block(position, let digests)? = reader.message(),
        let bytes = reader.read(Self.terms.blockBytes)
      else {
        Issue.record("no block \(position)")
        return
      }
      let found = bytes.withUnsafeBytes {
        ContentDigest.of($0, key: Self.keys[position], rank: 0)
      }
      #expect(found == digests[0], "the digest names key and rank, and is that of what was saved")
    }
    #expect(reader.message() == .end(.served))
  }

  @Test
  func `forty readers at a thousand bytes a second hold little, are cut off, and disturb nobody`()
    throws
  {
    // Blocks that fill a socket's buffers many times over.
    let limits = Limits {
      $0.readerStallMax = .seconds(8)
      $0.streamWindowBytes = 1
      // All want one prefix, and none comes again.
      $0.answersPerPrefixMax = 40
    }
    let (node, engine) = try Self.filled(8 * Self.terms.blockBytes, limits: limits)
    defer { node.stop() }
    // The same four blocks again and again: more than any buffer takes.
    let keys = (0..<1024).flatMap { _ in Self.keys }
    let readers = (0..<40).compactMap { _ in RawReader(node.node.port) }
    #expect(readers.count == 40)
    for reader in readers {
      reader.say(
        .hello(StreamHello(node: Incarnation(high: 9, low: 9), name: "x", terms: Self.terms)))
      for first in stride(from: 0, to: keys.count, by: StreamCodec.keysPerPage) {
        let end = min(first + StreamCodec.keysPerPage, keys.count)
        reader.say(.ask(keys: Array(keys[first..<end]), isLast: end == keys.count))
      }
    }
    let slow = SlowReading(readers)
    defer { slow.stop() }
    #expect(comes { node.report.serving == 40 })
    #expect(node.report.servingPins <= 40, "one block each, the window's least")
    // Until their buffers are full they are served like anybody.
    var served: UInt64 = 0
    #expect(
      comes {
        defer { served = node.report.bytesServed }
        return served > 0 && served == node.report.bytesServed
      })
    // Another member pulls, and the own engine saves, meanwhile.
    let other = try TestNode("b", members: [node.member])
    defer { other.stop() }
    let puller = try NodeEngine(other.socket)
    #expect(puller.comes { puller.engine.isAttached })
    puller.step()
    #expect(comes { other.report.members.first?.keys == 4 })
    #expect(puller.load(Self.keys, into: 8) == 4)
    #expect(other.report.blocksPulled == 4)
    engine.save(`A copy from a node's pool`.others, `A copy from a node's pool`.otherContent)
    #expect(comes { node.sealed == 8 })
    #expect(node.report.serving == 40, "they were cut off before, so this shows nothing")
    // The pool is full: what comes now makes others go, though not what is being sent. A reader whose next block goes
    // has had all that there is.
    engine.save((0..<4).map { BlockKey(high: UInt64($0), low: 77) }) { UInt64($0) }
    #expect(comes { node.report.pools[0].evicted >= 4 })
    #expect(slow.bytesRead > 0)
    func isFree() -> Bool { node.report.serving == 0 && node.report.servingPins == 0 }
    #expect(comes { isFree() } || comes { isFree() }, "within twice ten seconds")
    withExtendedLifetime(readers) {}
  }

  @Test func `who asks for another kind of blocks is told which field differs`() throws {
    let (node, _) = try Self.filled()
    defer { node.stop() }
    let reader = try #require(RawReader(node.node.port))
    var terms = Self.terms
    terms.fingerprint.numerics = "other"
    reader.ask(Self.keys, terms)
    guard case .refused(let reason)? = reader.message() else {
      Issue.record("it is not refused")
      return
    }
    #expect(reason.contains("numerics"))
    #expect(reader.message() == nil, "the connection has ended")
  }
}

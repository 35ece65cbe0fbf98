import Foundation
import LocalStore
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node
import Testing

/// Keeps what a node gives it, as the keeper does, and hands it to the next.
private final class Hands {
  private(set) var kept: [Incarnation: KeptFiles] = [:]
  private(set) var dropped: [Incarnation] = []
  private(set) var settledCount = 0
  private var socket: LocalSocket?
  private var life: UInt32 = 0

  /// For the next node. Whoever had the last has ended.
  ///
  /// - Parameter change: Of what is handed on.
  func link(_ change: ([(part: UInt16, descriptors: [Int32])]) -> [(UInt16, [Int32])] = { $0 })
    throws -> KeeperLink
  {
    take()
    let (own, its) = try #require(LocalSocket.pair())
    for files in kept.values {
      for (part, descriptors) in change(files.inOrder) {
        let message = KeeperMessage.keep(files.files, part: part)
        try #require(own.sendPacket(message.bytes, descriptors: descriptors))
      }
    }
    life += 1
    try #require(own.sendPacket(KeeperMessage.begin(life: life, port: 0).bytes))
    socket = own
    return try #require(KeeperLink(dup(its.descriptor), limits: Limits()))
  }

  /// Hears what the node has said.
  func take() {
    while let socket {
      guard case .bytes(let bytes, let received) = socket.receivePacket(atMost: 64),
        let message = bytes.withUnsafeBytes({ try? KeeperMessage($0) })
      else { return }
      switch message {
      case .keep(let name, let part):
        if kept[name] == nil { kept[name] = KeptFiles(name) }
        #expect(kept[name]!.add(part: part, received))
      case .drop(let name):
        kept[name] = nil
        dropped.append(name)
      case .settled: settledCount += 1
      case .begin, .serves: Issue.record("a node says \(message)")
      }
    }
  }

  /// Changes one of the only set of files.
  func change(part: UInt16, _ body: (UnsafeMutableRawPointer) -> Void) throws {
    take()
    let files = try #require(kept.values.first)
    let descriptor = try #require(files.inOrder.first { $0.part == part }?.descriptors.first)
    var status = stat()
    fstat(descriptor, &status)
    let mapping = try #require(
      mmap(nil, Int(status.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0))
    body(mapping)
    munmap(mapping, Int(status.st_size))
  }
}

@Suite(.serialized) struct `A node that takes over` {
  private static let keys = (1...4).map { BlockKey(high: 70, low: UInt64($0)) }

  private static func content(_ place: Int) -> UInt64 { UInt64(1000 + place) }

  /// A node that has sealed four blocks and has ended.
  private static func life(_ hands: Hands) throws {
    let node = try TestNode("a", keeper: try hands.link())
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    engine.step()
    engine.save(keys, content)
    #expect(engine.comes { node.sealed == keys.count })
    #expect(node.report.adoption == AdoptionReport(life: 1))
    hands.take()
    #expect(hands.kept.count == 1 && hands.kept.values.first?.inOrder.count == 2)
  }

  private static func report(_ node: TestNode) -> AdoptionReport? { node.report.adoption }

  @Test func `serves what the one before had sealed, to engines and to members`() throws {
    let hands = Hands()
    try Self.life(hands)
    let node = try TestNode("a", keeper: try hands.link())
    let other = try TestNode("b", members: [node.member])
    defer {
      other.stop()
      node.stop()
    }
    #expect(comes { Self.report(node)?.adopted == 4 })
    #expect(Self.report(node)?.refused == 0 && Self.report(node)?.life == 2)
    #expect(node.held == 0 && node.sealed == 4)
    for place in [node, other] {
      let engine = try NodeEngine(place.socket)
      #expect(engine.comes { engine.isAttached })
      if place === other { #expect(comes { place.report.members[0].keys == 4 }) }
      #expect(engine.load(Self.keys, into: 8) == 4)
      for place in Self.keys.indices { #expect(engine.content(8 + place) == Self.content(place)) }
      #expect(engine.errors.isEmpty)
    }
    #expect(other.report.blocksPulled == 4)
  }

  @Test func `goes on saving into what it took over, and the next has both`() throws {
    let hands = Hands()
    try Self.life(hands)
    let more = BlockKey(high: 71, low: 1)
    do {
      let node = try TestNode("a", keeper: try hands.link())
      defer { node.stop() }
      #expect(comes { Self.report(node)?.adopted == 4 })
      let engine = try NodeEngine(node.socket)
      #expect(engine.comes { engine.isAttached })
      engine.step()
      engine.save([more]) { _ in 5 }
      #expect(engine.comes { node.sealed == 5 })
      #expect(node.report.pools.count == 1, "its engine has its pool")
    }
    let node = try TestNode("a", keeper: try hands.link())
    defer { node.stop() }
    #expect(comes { Self.report(node)?.adopted == 5 })
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    #expect(engine.load([more], into: 9) == 1 && engine.content(9) == 5)
    hands.take()
    #expect(hands.kept.count == 1 && hands.dropped.isEmpty)
    #expect(
      comes {
        hands.take()
        return hands.settledCount == 3
      }, "each has looked at all that it had")
  }

  @Test func `keeps what it took over for the engine it belongs to, though another comes first`()
    throws
  {
    let hands = Hands()
    try Self.life(hands)
    let node = try TestNode("a", keeper: try hands.link())
    defer { node.stop() }
    let stranger = try NodeEngine(node.socket, model: NodeEngine.model("other"))
    #expect(comes { Self.report(node)?.adopted == 4 })
    stranger.step()
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    #expect(engine.load(Self.keys, into: 8) == 4)
    #expect(!stranger.isAttached, "there is no memory for it")
  }

  @Test func `does not show a block whose bytes are not those it was sealed with`() throws {
    let hands = Hands()
    try Self.life(hands)
    // Somebody wrote into the second slot's last page.
    let shape = try PoolShape(slotCount: 1, blockBytes: NodeEngine.layers * NodeEngine.page)
    var slots = 0
    try hands.change(part: 1) { mapping in
      // The words tell which slots are in use.
      let words = (mapping + 4096).assumingMemoryBound(to: UInt64.self)
      let used = (0..<64).filter { words[$0] & 1 == 1 }
      slots = used.count
      let offset = shape.slotsOffset + used[1] * shape.blockBytes + shape.blockBytes - 1
      mapping.storeBytes(
        of: mapping.load(fromByteOffset: offset, as: UInt8.self) ^ 1, toByteOffset: offset,
        as: UInt8.self)
    }
    #expect(slots == 4)
    let node = try TestNode("a", keeper: try hands.link())
    let other = try TestNode("b", members: [node.member])
    defer {
      other.stop()
      node.stop()
    }
    #expect(comes { Self.report(node)?.adopted == 3 && Self.report(node)?.refused == 1 })
    #expect(node.sealed == 3 && node.held == 0)
    // Over the old mapping it cannot be read either.
    try hands.change(part: 1) { mapping in
      let words = (mapping + 4096).assumingMemoryBound(to: UInt64.self)
      #expect((0..<64).count { words[$0] & 1 == 1 } == 3)
    }
    #expect(comes { other.report.members[0].keys == 3 })
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    var found = 0
    for place in Self.keys.indices where engine.load([Self.keys[place]], into: 8) == 1 {
      found += 1
      #expect(engine.content(8) == Self.content(place))
    }
    #expect(found == 3)
  }

  @Test func `whoever still has the old mapping cannot take another block for what was`() throws {
    let hands = Hands()
    try Self.life(hands)
    var before: [UInt64] = []
    try hands.change(part: 1) { mapping in
      let words = (mapping + 4096).assumingMemoryBound(to: UInt64.self)
      before = (0..<64).map { words[$0] }
    }
    // Of one entry the checksum is wrong.
    let lost = try #require(before.firstIndex { $0 & 1 == 1 })
    let entry = (TableHeader.wordCount + lost * SlotTable<TableMemory>.wordsPerSlot(1)) * 8
    try hands.change(part: 0) { mapping in
      mapping.storeBytes(of: 1, toByteOffset: entry + 8, as: UInt64.self)
    }
    let node = try TestNode("a", keeper: try hands.link())
    defer { node.stop() }
    #expect(comes { Self.report(node)?.adopted == 3 })
    try hands.change(part: 1) { mapping in
      let words = (mapping + 4096).assumingMemoryBound(to: UInt64.self)
      for slot in 0..<64 {
        let isKept = slot != lost && before[slot] & 1 == 1
        #expect((words[slot] == before[slot]) == isKept)
        #expect(isKept || words[slot] & 1 == 0)
      }
    }
  }

  @Test(arguments: ["version", "header", "no table", "no pool", "other pool", "memory"])
  func `begins with nothing where it cannot take over, and says why`(_ what: String) throws {
    let hands = Hands()
    try Self.life(hands)
    var change: ([(part: UInt16, descriptors: [Int32])]) -> [(UInt16, [Int32])] = { $0 }
    var memory = 1 << 20
    let reason: String
    switch what {
    case "version":
      try hands.change(part: 0) { $0.storeBytes(of: 9, toByteOffset: 8, as: UInt64.self) }
      reason = "layout version 9"
    case "header":
      try hands.change(part: 0) { $0.storeBytes(of: 9, toByteOffset: 32, as: UInt64.self) }
      reason = "makes no sense"
    case "no table":
      change = { $0.filter { $0.part != 0 } }
      reason = "files are missing"
    case "no pool":
      change = { $0.filter { $0.part != 1 } }
      reason = "files are missing"
    case "other pool":
      try hands.change(part: 1) { $0.storeBytes(of: 9, toByteOffset: 24, as: UInt64.self) }
      reason = "not of one making"
    default:
      memory = 1 << 16
      reason = "does not fit"
    }
    let node = try TestNode("a", memoryBytes: memory, keeper: try hands.link(change))
    defer { node.stop() }
    #expect(node.log.withLock { $0.contains { $0.contains(reason) } })
    hands.take()
    #expect(hands.kept.isEmpty && hands.dropped.count == 1, "its memory is given back")
    #expect(node.report.pools.isEmpty)
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    #expect(engine.load(Self.keys, into: 8) == 0)
    engine.step()
    engine.save([Self.keys[0]]) { _ in 3 }
    #expect(engine.comes { node.sealed == 1 })
  }

  @Test func `a keeper that is gone is no keeper`() throws {
    var descriptor: Int32 = -1
    do {
      let pair = try #require(LocalSocket.pair())
      descriptor = dup(pair.its.descriptor)
    }
    #expect(KeeperLink(descriptor, limits: Limits()) == nil)
  }
}

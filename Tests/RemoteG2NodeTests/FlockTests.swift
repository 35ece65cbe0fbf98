import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node
import Testing

@Suite(.serialized) struct `Fifty feeds` {
  private static let members = 50
  private static let keysOfEach = 3000

  @Test func `that begin at once are all heard, and one that ends takes its own keys alone`() throws
  {
    let flock = FeedFlock(Self.members, keysOfEach: Self.keysOfEach)
    let node = try TestNode("n")
    defer {
      flock.stop()
      node.stop()
    }
    func counts() -> [Int] { node.report.members.map(\.keys) }
    node.node.found(flock.members, by: .registry)
    #expect(comes { counts() == Array(repeating: Self.keysOfEach, count: Self.members) })
    for member in [0, 23, 49] {
      let keys = Set((0..<Self.keysOfEach).map { FeedFlock.key(member, $0) })
      #expect(node.node.look { $0.keysAnnounced(by: flock.members[member].name) } == keys)
    }
    node.node.found(Array(flock.members.dropFirst()), by: .registry)
    #expect(comes { counts().count == Self.members - 1 })
    #expect(node.node.look { $0.keysAnnounced(by: "f0") }.isEmpty)
    #expect(counts().allSatisfy { $0 == Self.keysOfEach })
    // Those that stay change what they have, and it comes back with what it has.
    flock.change(50_000)
    node.node.found(flock.members, by: .registry)
    #expect(comes { flock.changesTold > 20_000 && counts().count == Self.members })
    flock.change(0)
    #expect(comes { counts().allSatisfy { $0 == Self.keysOfEach } })
    #expect(node.node.hanging.isEmpty)
  }

  @Test func `that nobody reads hold up neither other members nor engines`() throws {
    let node = try TestNode("n", memoryBytes: 8 * NodeEngine.layers * NodeEngine.page)
    let other = try TestNode("o", members: [node.member])
    var silent: [Int32] = []
    defer {
      for connection in silent { close(connection) }
      other.stop()
      node.stop()
    }
    let hello =
      StreamCodec.encode(
        .hello(StreamHello(node: Incarnation(high: 4, low: 4), name: "silent", terms: nil)))
      + StreamCodec.encode(.watch)
    for _ in 0..<Self.members {
      let connection = try #require(ServedNode.connected(node.node.port))
      // So little room that what it is told soon waits.
      var room: Int32 = 2048
      setsockopt(connection, SOL_SOCKET, SO_RCVBUF, &room, 4)
      try #require(send(connection, hello, hello.count, Int32(MSG_NOSIGNAL)) == hello.count)
      silent.append(connection)
    }
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    engine.step()
    // Its pool is small: most of it is sealed and evicted, and told.
    var round = 0
    #expect(
      comes {
        engine.save((0..<4).map { BlockKey(high: UInt64(round), low: $0) }) { UInt64(round + $0) }
        round += 1
        return node.report.pools[0].evicted > 400
      }, "little is told")
    #expect(engine.comes { node.held == 0 })
    let own = node.node.look(\.sealedKeys)
    #expect(comes { other.node.look { $0.keysAnnounced(by: "n") } == node.node.look(\.sealedKeys) })
    #expect(!own.isEmpty && node.node.hanging.isEmpty)
  }
}

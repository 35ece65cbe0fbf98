import Foundation
import LocalStore
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Library
import RemoteG2Node
import Testing

@Suite(.serialized) struct `Two nodes` {
  static let keys = (0..<6).map { BlockKey(high: UInt64($0), low: 21) }
  static func content(_ place: Int) -> UInt64 { 0x1000 + UInt64(place) }

  @Test func `an engine loads from its own node what it has saved there`() throws {
    let node = try TestNode("a")
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(Self.keys, Self.content)
    #expect(comes { node.sealed == 6 })
    #expect(engine.load(Self.keys, into: 8) == 6)
    #expect((0..<6).map { engine.content(8 + $0) } == (0..<6).map(Self.content))
    #expect(engine.errors.isEmpty)
    #expect(comes { node.held == 0 }, "\(node.report)")
  }

  @Test func `an engine asks only for what it, its node or a member has`() throws {
    let near = try TestNode("a")
    defer { near.stop() }
    let (one, other) = (try NodeEngine(near.socket), try NodeEngine(near.socket))
    #expect(one.comes { one.engine.isAttached } && other.comes { other.engine.isAttached })
    other.step()
    // Nobody has it: it is known without a question, and at once.
    one.engine.newRequest(RequestID(1), keys: Self.keys)
    #expect(one.engine.match(RequestID(1), local: 0, most: Self.keys.count) == .none)
    #expect(one.engine.counts.asked == 0 && near.report.shortfalls.isEmpty)
    // It waits for its turn, and meanwhile the other one computes it.
    other.save(Self.keys, Self.content)
    #expect(comes { near.sealed == 6 })
    #expect(
      one.comes {
        one.engine.match(RequestID(1), local: 0, most: Self.keys.count) == .ready(blocks: 6)
      })
    #expect(one.engine.counts.asked == 1)
    one.engine.finished(RequestID(1))
  }

  @Test func `an engine saves what it has with a node that took the old one's place`() throws {
    let node = try TestNode("a")
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(Self.keys, Self.content)
    #expect(comes { node.sealed == Self.keys.count })
    node.node.stop()
    #expect(engine.comes { !engine.engine.isAttached })
    let successor = try Node(node.configuration)
    defer {
      successor.stop()
      try? FileManager.default.removeItem(atPath: node.configuration.directory)
    }
    #expect(engine.comes { engine.engine.isAttached })
    // Its request finds all in the engine's own cache, and computes one token. A rank that has not found the new
    // node yet stages nothing: the next one finds as much.
    var number: UInt64 = 4711
    let isSaved = engine.comes {
      let id = RequestID(number)
      number += 1
      engine.engine.newRequest(id, keys: Self.keys)
      _ = engine.comes {
        engine.engine.match(id, local: Self.keys.count, most: Self.keys.count) == .none
      }
      _ = engine.engine.bind(id, local: Self.keys.count, targets: [])
      engine.engine.scheduled(
        id, computed: Self.keys.count * NodeEngine.tokensPerBlock, scheduled: 1, keys: [],
        blocks: Self.keys.indices.map { BlockIndex($0) }, isWhole: true)
      engine.step(tokens: 1)
      engine.engine.finished(id)
      return successor.look(\.report).pools.first?.sealed == Self.keys.count
    }
    #expect(isSaved)
  }

  @Test func `a prefix is asked for when its request comes, before the engine wants to know of it`()
    throws
  {
    let node = try TestNode("a")
    defer { node.stop() }
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(Self.keys, Self.content)
    #expect(comes { node.sealed == Self.keys.count })
    engine.engine.newRequest(RequestID(1), keys: Self.keys)
    // The engine is busy: it calls nothing meanwhile.
    #expect(comes { node.report.blocksAnswered == Self.keys.count })
    engine.engine.finished(RequestID(1))
    #expect(comes { node.held == 0 })
  }

  @Test func `the first request of an engine that has called nothing before is asked for`() throws {
    let node = try TestNode("a")
    defer { node.stop() }
    let saving = try NodeEngine(node.socket)
    #expect(saving.comes { saving.engine.isAttached })
    saving.step()
    saving.save(Self.keys, Self.content)
    #expect(comes { node.sealed == Self.keys.count })
    let engine = try NodeEngine(node.socket)
    #expect(comes { node.report.pools.first?.engines == 2 })
    #expect(engine.load(Self.keys, into: 2) == Self.keys.count)
  }

  @Test func `the doctor pulls and proves blocks of a member, and says why it cannot`() throws {
    let node = try TestNode("a")
    defer { node.stop() }
    #expect(throws: MemberProbe.Failure.unreachable) {
      try MemberProbe.look(at: StreamAddress(host: "127.0.0.1", port: 1), as: "a", own: nil)
    }
    var finding = try MemberProbe.look(at: node.member.address, as: "a", own: nil)
    #expect(finding.name == "a" && finding.pools.isEmpty && finding.roundTrip == nil)
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.engine.isAttached })
    engine.step()
    engine.save(Self.keys, Self.content)
    #expect(comes { node.sealed == Self.keys.count })
    finding = try MemberProbe.look(at: node.member.address, as: "a", own: nil)
    #expect(finding.keyCount == Self.keys.count && finding.provedCount == Self.keys.count)
    #expect(finding.bytes == Self.keys.count * NodeEngine.layers * NodeEngine.page)
    #expect(finding.roundTrip != nil && finding.bytesPerSecond != nil)
    #expect(comes { node.held == 0 })
  }

  @Test func `a prefix that one engine computed is pulled by the other's node, byte by byte`()
    throws
  {
    let a = try TestNode("a")
    let b = try TestNode("b", members: [a.member])
    defer {
      b.stop()
      a.stop()
    }
    let (first, second) = (try NodeEngine(a.socket), try NodeEngine(b.socket))
    #expect(first.comes { first.engine.isAttached } && second.comes { second.engine.isAttached })
    first.step()
    second.step()
    first.save(Self.keys, Self.content)
    #expect(comes { b.report.members.first?.keys == 6 })
    #expect(second.load(Self.keys + [BlockKey(high: 99, low: 99)], into: 3) == 6)
    #expect((0..<6).map { second.content(3 + $0) } == (0..<6).map(Self.content))
    #expect(b.report.blocksPulled == 6 && b.report.bytesPulled == UInt64(6 * 3 * 4096))
    #expect(comes { a.report.bytesServed == b.report.bytesPulled })
    #expect(comes { a.held == 0 && b.held == 0 }, "\(a.report) \(b.report)")
    // The next one is a hit at home.
    #expect(second.load(Self.keys, into: 9) == 6)
    #expect(b.report.blocksPulled == 6)
    #expect(second.errors.isEmpty)
  }

  @Test func `engines of other models share nothing, and the log says which field differs`() throws
  {
    let a = try TestNode("a")
    let b = try TestNode("b", members: [a.member])
    defer {
      b.stop()
      a.stop()
    }
    let first = try NodeEngine(a.socket)
    let second = try NodeEngine(b.socket, model: NodeEngine.model("another"))
    #expect(first.comes { first.engine.isAttached } && second.comes { second.engine.isAttached })
    first.step()
    first.save(Self.keys, Self.content)
    #expect(comes { b.report.members.first?.mismatch?.contains("model") == true })
    #expect(second.load(Self.keys, into: 3) == 0)
    #expect(b.report.blocksPulled == 0)
  }

  @Test func `what holds a name holds it alone, and a stopped node leaves nothing`() throws {
    let a = try TestNode("a")
    #expect(throws: NodeError.self) { _ = try Node(a.configuration) }
    a.node.stop()
    #expect(!FileManager.default.fileExists(atPath: a.socket))
    let again = try Node(a.configuration)
    again.stop()
    try FileManager.default.removeItem(atPath: a.configuration.directory)
  }

  @Test func `a name whose holder is gone but for its lock is waited for, up to a bound`() throws {
    let hasty = Limits {
      ($0.drainMax, $0.reapMax) = (.milliseconds(10), .milliseconds(10))
      $0.nameWaitMax = .milliseconds(50)
    }
    let a = try TestNode("a", limits: hasty)
    a.node.stop()
    // As of a process that was killed, and whose memory is not given back yet.
    let descriptor = open(a.configuration.lockPath, O_RDWR | O_CREAT, 0o600)
    #expect(flock(descriptor, LOCK_EX | LOCK_NB) == 0)
    let began = MonotonicClock.now()
    #expect(throws: NodeError.self) { _ = try Node(a.configuration) }
    #expect(MonotonicClock.now() - began >= .milliseconds(50))
    let lines = Guarded<[String]>([])
    let patient = NodeConfiguration(
      name: "a", address: a.configuration.address, members: [], memoryBytes: 1 << 20,
      directory: a.configuration.directory, limits: Limits(),
      log: { line in lines.withLock { $0.append(line) } })
    // It lets go once it is waited for.
    let letting = OSThread.start("let go") {
      _ = comes { lines.withLock { $0.contains { $0.contains("waits for a process") } } }
      close(descriptor)
    }
    let again = try Node(patient)
    letting.join()
    #expect(lines.withLock { $0.count { $0.contains("waits for a process") } } == 1)
    again.stop()
    try FileManager.default.removeItem(atPath: a.configuration.directory)
  }

  @Test func `a member's sudden end costs a question no more than what has come`() throws {
    let a = try TestNode("a")
    let b = try TestNode("b", members: [a.member])
    defer { b.stop() }
    let (first, second) = (try NodeEngine(a.socket), try NodeEngine(b.socket))
    #expect(first.comes { first.engine.isAttached } && second.comes { second.engine.isAttached })
    first.step()
    second.step()
    first.save(Self.keys, Self.content)
    #expect(comes { b.report.members.first?.keys == 6 })
    a.stop()
    #expect(comes { b.report.members.first?.standing == "away" })
    #expect(second.load(Self.keys, into: 3) == 0)
    #expect(comes { b.held == 0 })
  }
}

/// Bytes that no node says, from a connection that anybody may make.
@Suite(.serialized) struct `A node's stream port` {
  @Test func `outlives whatever it is sent`() throws {
    let a = try TestNode("a")
    defer { a.stop() }
    var generator = SystemRandomNumberGenerator()
    let hello = StreamCodec.encode(
      .hello(
        StreamHello(node: Incarnation(using: &generator), name: "x", terms: nil)))
    for round in 0..<200 {
      var bytes = round % 2 == 0 ? hello : []
      bytes += (0..<Int.random(in: 1...300)).map { _ in UInt8.random(in: 0...255) }
      let socket = try #require(Self.connect(a.node.port))
      defer { close(socket) }
      _ = bytes.withUnsafeBytes { send(socket, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    }
    // It still serves.
    let b = try TestNode("b", members: [a.member])
    defer { b.stop() }
    #expect(comes { b.report.members.first?.standing == "connected" })
    #expect(comes { a.held == 0 })
  }

  static func connect(_ port: Int) -> Int32? {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    let status = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    return status == 0 ? descriptor : nil
  }
}

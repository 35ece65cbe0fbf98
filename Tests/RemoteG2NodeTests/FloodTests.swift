import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core
import RemoteG2Node
import Testing

/// A member of this name that says that it lives, for as long as anybody listens.
private final class Flood: Sendable {
  let port: Int
  private let listener: Int32
  private let state = Guarded((sent: 0, isOver: false, connection: Int32(-1)))
  private let thread = Guarded<OSThread?>(nil)

  init(_ name: PeerName) throws {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    listener = descriptor
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let bound = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, length) == 0 && listen(descriptor, 4) == 0
          && getsockname(descriptor, $0, &length) == 0
      }
    }
    try #require(bound)
    port = Int(UInt16(bigEndian: address.sin_port))
    let welcome = StreamCodec.encode(
      .welcome(StreamWelcome(node: Incarnation(high: 6, low: 6), name: name)))
    let beats = (0..<20_000).flatMap { _ in StreamCodec.encode(.beat) }
    let started = OSThread.start("flood") { [state] in
      while !state.withLock({ $0.isOver }) {
        let connection = accept(descriptor, nil, nil)
        guard connection >= 0 else { return }
        state.withLock { $0.connection = connection }
        var next = welcome
        while !state.withLock({ $0.isOver }) {
          let sent = next.withUnsafeBytes {
            send(connection, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
          }
          guard sent == next.count else { break }
          state.withLock { $0.sent += sent }
          next = beats
        }
        state.withLock { state in
          state.connection = -1
          close(connection)
        }
      }
    }
    thread.withLock { $0 = started }
  }

  var bytesSent: Int { state.withLock { $0.sent } }

  /// Whoever listens to it hears its end: first of all, because a node that it holds up would not end.
  func stop() {
    state.withLock { state in
      state.isOver = true
      if state.connection >= 0 { shutdown(state.connection, Int32(SHUT_RDWR)) }
    }
    shutdown(listener, Int32(SHUT_RDWR))
    thread.withLock { $0 }?.join()
    close(listener)
  }
}

@Suite(.serialized) struct `A flood` {
  @Test func `a member that never stops talking holds up no other`() throws {
    let flood = try Flood("a-first")
    let other = try TestNode("z")
    let node = try TestNode(
      "n",
      members: [
        ("a-first", StreamAddress(host: "127.0.0.1", port: flood.port)), other.member,
      ])
    defer {
      flood.stop()
      node.stop()
      other.stop()
    }
    func isConnected(_ name: String) -> Bool {
      node.report.members.contains { $0.name == name && $0.standing == "connected" }
    }
    #expect(comes { isConnected("a-first") && flood.bytesSent > 4 << 20 }, "it did not flood")
    #expect(comes { isConnected("z") })
    let key = BlockKey(high: 1, low: 41)
    let engine = try NodeEngine(other.socket)
    #expect(engine.comes { engine.isAttached })
    engine.step()
    engine.save([key]) { _ in 7 }
    #expect(comes { node.report.members.contains { $0.name == "z" && $0.keys == 1 } })
    #expect(node.node.hanging.isEmpty)
    let before = flood.bytesSent
    #expect(comes { flood.bytesSent > before + 1 << 20 }, "it had stopped by then")
  }
}

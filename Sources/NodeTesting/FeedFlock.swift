internal import Foundation
internal import OSThreads
package import RemoteG2Core

/// Members that only announce, all in one process: each listens, welcomes whoever watches, tells what it has, and then
/// what changes.
package final class FeedFlock: Sendable {
  package let members: [Membership.Place]
  private let listeners: [Int32]
  private let threads = Guarded<[OSThread]>([])
  private let connections = Guarded<[Int: Int32]>([:])
  private let isOver = Guarded(false)
  /// Of each member, changes a second.
  private let churn = Guarded(0)
  private let told = Guarded(0)
  private let keysOfEach: Int

  private static let keysPerPage = 2048
  private static let changesPerBatch = 64

  /// As evenly spread as digests, and not kept anywhere.
  package static func key(_ member: Int, _ number: Int) -> BlockKey {
    func mixed(_ value: UInt64) -> UInt64 {
      var value = value &+ 0x9E37_79B9_7F4A_7C15
      value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
      value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
      return value ^ (value >> 31)
    }
    let place = UInt64(member) << 32 | UInt64(number)
    return BlockKey(high: mixed(place), low: mixed(~place))
  }

  package init(_ count: Int, keysOfEach: Int) {
    self.keysOfEach = keysOfEach
    var (members, listeners): ([Membership.Place], [Int32]) = ([], [])
    for number in 0..<count {
      let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
      var length = socklen_t(MemoryLayout<sockaddr_in>.size)
      let isBound = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(descriptor, $0, length) == 0 && listen(descriptor, 16) == 0
            && getsockname(descriptor, $0, &length) == 0
        }
      }
      precondition(isBound, "no port for a member")
      listeners.append(descriptor)
      members.append(
        Membership.Place(
          name: PeerName("f\(number)"),
          address: StreamAddress(
            host: "127.0.0.1", port: Int(UInt16(bigEndian: address.sin_port)))))
    }
    self.members = members
    self.listeners = listeners
    let started = (0..<count).map { number in
      OSThread.start("flock") { [self] in serve(number) }
    }
    threads.withLock { $0 = started }
  }

  /// What all of them have told of changes.
  package var changesTold: Int { told.withLock { $0 } }
  /// From now on each of them seals and evicts so many blocks a second.
  package func change(_ perSecond: Int) { churn.withLock { $0 = perSecond } }

  private func serve(_ number: Int) {
    while true {
      let connection = accept(listeners[number], nil, nil)
      guard connection >= 0 else { return }
      connections.withLock { $0[number] = connection }
      talk(number, connection)
      connections.withLock { $0[number] = nil }
      close(connection)
    }
  }

  private func talk(_ number: Int, _ connection: Int32) {
    func say(_ message: StreamMessage) -> Bool {
      let bytes = StreamCodec.encode(message)
      return send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }
    let welcome = StreamWelcome(
      node: Incarnation(high: UInt64(number), low: 77), name: members[number].name)
    guard say(.welcome(welcome)), say(.pools([])) else { return }
    for first in stride(from: 0, to: keysOfEach, by: Self.keysPerPage) {
      let end = min(first + Self.keysPerPage, keysOfEach)
      guard
        say(
          .snapshot((first..<end).map { Self.key(number, $0) }, isLast: end == keysOfEach))
      else { return }
    }
    var (batch, next): (UInt64, Int) = (0, keysOfEach)
    while !isOver.withLock({ $0 }) {
      let rate = churn.withLock { $0 }
      guard rate > 0 else {
        guard say(.beat) else { return }
        OSThread.nap(.milliseconds(200))
        continue
      }
      batch += 1
      let changes = (0..<Self.changesPerBatch / 2).flatMap { offset in
        [
          FeedChange(key: Self.key(number, next + offset), isSealed: true),
          FeedChange(key: Self.key(number, next + offset - keysOfEach), isSealed: false),
        ]
      }
      next += Self.changesPerBatch / 2
      guard say(.changes(number: batch, changes)) else { return }
      told.withLock { $0 += changes.count }
      OSThread.nap(.microseconds(Int64(1_000_000 * Self.changesPerBatch / rate)))
    }
  }

  package func stop() {
    isOver.withLock { $0 = true }
    for listener in listeners { shutdown(listener, Int32(SHUT_RDWR)) }
    connections.withLock { for connection in $0.values { shutdown(connection, Int32(SHUT_RDWR)) } }
    for thread in threads.withLock({ $0 }) { thread.join() }
    for listener in listeners { close(listener) }
  }
}

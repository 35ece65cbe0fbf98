internal import Glibc
public import RemoteG2Core

/// A rank's connection to its own store: messages, and memory to stage blocks in. One thread uses it.
public protocol StagingLink: AnyObject, Sendable {
  /// Blocks that can be staged at once.
  var slotCount: Int { get }
  /// Where one block is staged: the first byte of a slot of the staging memory. One outside it traps.
  func pointer(to slot: UInt32) -> UnsafeMutableRawPointer
  /// - Returns: false when the store is away, or reads nothing.
  func send(_ message: LocalMessage) -> Bool
  /// What has come since the last call; nil once the connection has ended.
  func receive() -> [LocalMessage]?
}

/// The shipped link: a socket, and staging memory that the store made.
package final class SocketStagingLink: StagingLink, @unchecked Sendable {
  // @unchecked: made on the step thread, and used by the pump's from then on.
  private let socket: LocalSocket
  private let memory: StagingMemory

  package init(_ socket: LocalSocket, _ memory: StagingMemory) {
    self.socket = socket
    self.memory = memory
  }

  package var slotCount: Int { memory.slotCount }
  package func pointer(to slot: UInt32) -> UnsafeMutableRawPointer { memory.pointer(to: slot) }
  package func send(_ message: LocalMessage) -> Bool { socket.send(message) }

  package func receive() -> [LocalMessage]? {
    var messages: [LocalMessage] = []
    while true {
      switch socket.receive() {
      case .message(let message, _): messages.append(message)
      case .nothing: return messages
      case .malformed, .closed: return nil
      }
    }
  }
}

/// A rank's view of its own store: its pool, mapped for reading, and its link.
package struct OwnPool {
  package let mapping: PoolMapping
  package let link: SocketStagingLink

  /// How long a rank waits for its welcome. The store answers within microseconds, or hangs.
  private static let welcomeMax: Duration = .milliseconds(100)

  /// Connects as one rank of an engine. Waits for the welcome, for a bounded time.
  ///
  /// - Parameters:
  ///   - now, nap: The caller's clock, and how it waits.
  /// - Returns: Nil when the store is gone, is another by now, or does not answer.
  package static func open(
    socket path: String, store: Incarnation, hello: LocalHello, now: () -> LocalInstant,
    nap: (Duration) -> Void
  ) -> OwnPool? {
    guard case .success(let socket) = LocalSocket.connect(path), socket.send(.hello(hello)) else {
      return nil
    }
    let deadline = now() + welcomeMax
    while true {
      switch socket.receive() {
      case .nothing:
        guard now() < deadline else { return nil }
        nap(.microseconds(100))
      case .message(.welcome(let welcome), let descriptors):
        guard welcome.store == store, let pool = descriptors.take(),
          let staging = descriptors.take()
        else { return nil }
        return OwnPool(socket, welcome, pool, staging)
      case .message, .malformed, .closed: return nil
      }
    }
  }

  private init?(_ socket: LocalSocket, _ welcome: LocalWelcome, _ pool: Int32, _ staging: Int32) {
    defer { for descriptor in [pool, staging] { close(descriptor) } }
    do throws(PoolError) {
      mapping = try PoolMapping(
        pool, slotCount: welcome.slotCount, blockBytes: welcome.blockBytes, owner: welcome.store)
      link = SocketStagingLink(
        socket,
        try StagingMemory(
          staging, slotCount: welcome.stagingSlots, blockBytes: welcome.blockBytes))
    } catch { return nil }
  }
}

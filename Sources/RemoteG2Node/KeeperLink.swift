internal import LocalStore
internal import OSThreads
package import RemoteG2Core

/// The connection of a node to the process that keeps its pools' files: what it makes it gives there, and what was
/// given by the process before it gets from there.
package final class KeeperLink: Sendable {
  private let socket: LocalSocket
  /// How many processes have served for the keeper, this one included.
  package let life: Int
  /// Where the one before listened; 0: this is the first.
  package let port: Int
  private let handed: Guarded<[KeptFiles]>

  /// Takes what the keeper has. Waits for it, for a bounded time.
  ///
  /// - Parameter descriptor: Of the connection; it belongs to this call.
  /// - Returns: Nil when the keeper is gone, or says what no keeper says.
  package init?(_ descriptor: Int32, limits: Limits) {
    socket = LocalSocket(adopting: descriptor)
    let bell = EventBell()
    let deadline = MonotonicClock.now() + limits.handoverMax
    var files: [KeptFiles] = []
    while true {
      switch socket.receivePacket(atMost: KeeperMessage.bytesMax) {
      case .nothing:
        guard MonotonicClock.now() < deadline else { return nil }
        _ = bell.wait(until: deadline, hearing: [socket.descriptor])
      case .closed: return nil
      case .bytes(let bytes, let received):
        let message = bytes.withUnsafeBytes { try? KeeperMessage($0) }
        switch message {
        case .keep(let name, let part):
          if files.last?.files != name { files.append(KeptFiles(name)) }
          guard files.last?.add(part: part, received) == true else { return nil }
        case .begin(let life, let port):
          self.life = Int(life)
          self.port = Int(port)
          handed = Guarded(files)
          return
        case .drop, .serves, .settled, nil: return nil
        }
      }
    }
  }

  /// The process at the other end; nil: that cannot be told.
  package var keeper: Int32? { socket.peer?.process }

  /// What was kept, once.
  func takeHanded() -> [KeptFiles] {
    handed.withLock { files in
      defer { files = [] }
      return files
    }
  }

  /// - Returns: Whether the keeper has all of it. Otherwise it is as if it had none.
  func keep(_ pool: KeptPool) -> Bool {
    guard let table = pool.table else { return false }
    var isKept = send(.keep(pool.files, part: 0), [table.words.descriptor])
    for (rank, memory) in pool.ranks.enumerated() {
      isKept =
        isKept
        && send(
          .keep(pool.files, part: UInt16(rank + 1)), [memory.descriptor, memory.readOnlyDescriptor])
    }
    if !isKept { drop(pool.files) }
    return isKept
  }

  func drop(_ files: Incarnation) { _ = send(.drop(files), []) }

  /// All that was taken over has been looked at.
  func settled() { _ = send(.settled, []) }

  /// It can be reached from now on.
  package func serves(port: Int) { _ = send(.serves(port: UInt16(clamping: port)), []) }

  private func send(_ message: KeeperMessage, _ descriptors: [Int32]) -> Bool {
    // The keeper reads all the time. One that does not for a while has no more of it than of what is never sent.
    let deadline = MonotonicClock.now() + Self.sendMax
    while !socket.sendPacket(message.bytes, descriptors: descriptors) {
      guard MonotonicClock.now() < deadline else { return false }
      OSThread.nap(.milliseconds(1))
    }
    return true
  }

  private static let sendMax: Duration = .milliseconds(100)
}

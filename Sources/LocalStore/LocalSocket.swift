internal import CLinuxShims
internal import Glibc
package import RemoteG2Core

/// Descriptors that came with a message. Those that nobody takes are closed.
package final class ReceivedDescriptors {
  private var descriptors: [Int32]
  init(_ descriptors: [Int32]) { self.descriptors = descriptors }
  deinit { for descriptor in descriptors { close(descriptor) } }

  package var count: Int { descriptors.count }
  /// From now on it is the caller's to close.
  package func take() -> Int32? { descriptors.isEmpty ? nil : descriptors.removeFirst() }
}

/// One end of a connection between an engine and its store: whole messages, and nothing ever waits.
package final class LocalSocket: @unchecked Sendable {
  // @unchecked: the number never changes, and the kernel serves any thread.
  package let descriptor: Int32

  package enum Received {
    case message(LocalMessage, ReceivedDescriptors)
    /// A packet that is no message: the other's fault.
    case malformed(WireError)
    /// Nothing more has come.
    case nothing
    /// The other end is closed.
    case closed
  }

  deinit { close(descriptor) }

  /// One end of a connection that this process was started with. It is closed here.
  package init(adopting descriptor: Int32) { self.descriptor = descriptor }

  /// Both ends of a connection, for a process that is started with one of them. Nil: there are no descriptors left.
  package static func pair() -> (own: LocalSocket, its: LocalSocket)? {
    var ends: [Int32] = [-1, -1]
    let kind = SOCK_SEQPACKET.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue
    guard socketpair(AF_UNIX, Int32(kind), 0, &ends) == 0 else { return nil }
    return (LocalSocket(adopting: ends[0]), LocalSocket(adopting: ends[1]))
  }

  package enum ConnectFailure: Error, Equatable, Sendable {
    /// Nobody listens there.
    case refused
    case other(Int32)
  }

  /// Connects to the store at `path`. Returns at once.
  package static func connect(_ path: String) -> Result<LocalSocket, ConnectFailure> {
    let descriptor = clinux_local_connect(path)
    if descriptor >= 0 { return .success(LocalSocket(adopting: descriptor)) }
    switch -descriptor {
    case ECONNREFUSED, ENOENT: return .failure(.refused)
    case let error: return .failure(.other(error))
    }
  }

  /// - Returns: false when the other end is gone, or reads so little that it is as good as gone.
  @discardableResult
  package func send(_ message: LocalMessage, descriptors: [Int32] = []) -> Bool {
    let bytes = LocalCodec.encode(message)
    precondition(bytes.count <= LocalCodec.bytesMax, "a message of \(bytes.count) bytes")
    return clinux_local_send(
      descriptor, bytes, bytes.count, descriptors, Int32(descriptors.count)) == 0
  }

  /// Sends a text in pages.
  ///
  /// - Returns: false when the other end is gone, or reads so little that it is as good as gone.
  package func sendReport(_ number: UInt64, _ text: String) -> Bool {
    // Plain ASCII pages, whatever is in it: a page must not end within a character.
    var rest = Substring(text.asciiJSON)
    repeat {
      let page = rest.prefix(LocalCodec.reportBytesPerPage)
      rest = rest.dropFirst(page.count)
      guard send(.reported(number, String(page), isLast: rest.isEmpty)) else { return false }
    } while !rest.isEmpty
    return true
  }

  package func receive() -> Received {
    withUnsafeTemporaryAllocation(byteCount: LocalCodec.bytesMax, alignment: 16) { buffer in
      var descriptors: [Int32] = [-1, -1, -1, -1]
      var count: Int32 = 0
      let length = clinux_local_receive(
        descriptor, buffer.baseAddress, buffer.count, &descriptors, 4, &count)
      let received = ReceivedDescriptors(Array(descriptors.prefix(Int(count))))
      if length == -Int(EAGAIN) { return .nothing }
      if length == -Int(EMSGSIZE) {
        return .malformed(.tooMany(buffer.count + 1, max: buffer.count))
      }
      guard length > 0 else { return .closed }
      do throws(WireError) {
        let packet = UnsafeRawBufferPointer(rebasing: buffer[..<length])
        return .message(try LocalCodec.decode(packet), received)
      } catch { return .malformed(error) }
    }
  }

  /// What comes over a connection whose messages are others than an engine's.
  package enum Packet {
    case bytes([UInt8], ReceivedDescriptors)
    case nothing
    case closed
  }

  /// - Returns: false when it cannot be sent now, or ever.
  package func sendPacket(_ bytes: [UInt8], descriptors: [Int32] = []) -> Bool {
    clinux_local_send(descriptor, bytes, bytes.count, descriptors, Int32(descriptors.count)) == 0
  }

  /// - Parameter most: A longer packet ends the connection.
  package func receivePacket(atMost most: Int) -> Packet {
    withUnsafeTemporaryAllocation(byteCount: most, alignment: 16) { buffer in
      var descriptors: [Int32] = [-1, -1, -1, -1]
      var count: Int32 = 0
      let length = clinux_local_receive(
        descriptor, buffer.baseAddress, buffer.count, &descriptors, 4, &count)
      let received = ReceivedDescriptors(Array(descriptors.prefix(Int(count))))
      if length == -Int(EAGAIN) { return .nothing }
      guard length > 0 else { return .closed }
      return .bytes(Array(buffer[..<length]), received)
    }
  }

  /// The process at the other end when the connection was made, and its user.
  package var peer: (process: Int32, user: UInt32)? {
    var (pid, uid) = (pid_t(0), uid_t(0))
    return clinux_local_peer(descriptor, &pid, &uid) == 0 ? (pid, uid) : nil
  }
}

/// A store's listening socket.
package final class LocalListener: @unchecked Sendable {
  // @unchecked: the number never changes, and one thread accepts.
  package let descriptor: Int32
  /// No connection can be taken now, for want of descriptors or memory; those that wait would wake their thread
  /// for nothing. Only the thread that accepts reads it.
  package private(set) var isExhausted = false
  private let group: UInt32?

  /// Replaces what is at `path`: hold a lock on the store's name before.
  ///
  /// - Parameter group: Whose members may connect, besides this user and root; nil: nobody.
  package init(_ path: String, group: UInt32? = nil) throws(PoolError) {
    self.group = group
    descriptor = clinux_local_listen(path)
    guard descriptor >= 0 else {
      throw .cannotListen(path: path, reason: String(cString: strerror(-descriptor)))
    }
    guard let group else { return }
    guard chown(path, uid_t.max, group) == 0, chmod(path, 0o660) == 0 else {
      let reason = String(cString: strerror(errno))
      close(descriptor)
      throw .cannotListen(path: path, reason: "group \(group): \(reason)")
    }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// The next connection that waits, or nil. Without a group, connections of a user that is neither this one nor
  /// root are closed; with one, the socket's own permissions have let in whom they should.
  package func accept() -> LocalSocket? {
    while true {
      let accepted = clinux_local_accept(descriptor)
      isExhausted = [EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(-accepted)
      guard accepted >= 0 else { return nil }
      let socket = LocalSocket(adopting: accepted)
      if group != nil { return socket }
      if let user = socket.peer?.user, user == geteuid() || user == 0 { return socket }
    }
  }
}

extension String {
  /// JSON with every character that is not ASCII escaped.
  fileprivate var asciiJSON: String {
    utf16.map { unit in
      unit < 128
        ? String(Character(Unicode.Scalar(UInt8(unit))))
        : "\\u" + String(repeating: "0", count: 4 - String(unit, radix: 16).count)
          + String(unit, radix: 16)
    }.joined()
  }
}

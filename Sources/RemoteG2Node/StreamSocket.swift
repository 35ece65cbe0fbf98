internal import CLinuxShims
internal import Glibc
internal import RemoteG2Core

/// One end of a stream: bytes, and nothing ever waits. One thread uses it, and the same thread closes it.
final class StreamSocket {
  enum Outcome: Equatable {
    case bytes(Int)
    /// Not now.
    case nothing
    /// The other end has closed, or the connection is broken.
    case closed
  }

  let descriptor: Int32

  init(_ descriptor: Int32) { self.descriptor = descriptor }
  deinit { close(descriptor) }

  /// Begins a connection; nil when it is refused at once.
  static func connect(_ address: StreamAddress) -> StreamSocket? {
    let descriptor = clinux_tcp_connect(address.host, Int32(address.port))
    return descriptor >= 0 ? StreamSocket(descriptor) : nil
  }

  func receive(into memory: UnsafeMutableRawPointer, atMost count: Int) -> Outcome {
    Self.outcome(clinux_tcp_receive(descriptor, memory, count), zeroIsClosed: true)
  }

  func send(_ memory: UnsafeRawPointer, _ count: Int) -> Outcome {
    Self.outcome(
      clinux_tcp_send(descriptor, memory, count), zeroIsClosed: false)
  }

  /// What does not fit `memory` goes into `rest`.
  func receive(
    into memory: UnsafeMutableRawPointer, atMost count: Int,
    then rest: UnsafeMutableRawBufferPointer
  ) -> Outcome {
    Self.outcome(
      clinux_tcp_receive_two(descriptor, memory, count, rest.baseAddress, rest.count),
      zeroIsClosed: true)
  }

  /// All parts in one call, one after another.
  func send(_ parts: UnsafeBufferPointer<iovec>) -> Outcome {
    Self.outcome(
      clinux_tcp_send_parts(descriptor, parts.baseAddress, Int32(parts.count)), zeroIsClosed: false)
  }

  private static func outcome(_ result: Int, zeroIsClosed: Bool) -> Outcome {
    if result > 0 { return .bytes(result) }
    if result == 0 { return zeroIsClosed ? .closed : .nothing }
    // A connection that is still being made can be neither read nor written.
    return -result == Int(EAGAIN) || -result == Int(ENOTCONN) ? .nothing : .closed
  }

  /// Receives a piece of a frame.
  ///
  /// - Parameter take: Given what has come, if anything has.
  func receive(atMost count: Int, _ take: (UnsafeRawBufferPointer) -> Void) -> Outcome {
    withUnsafeTemporaryAllocation(byteCount: count, alignment: 1) { buffer in
      let outcome = receive(into: buffer.baseAddress!, atMost: count)
      if case .bytes(let count) = outcome {
        take(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      }
      return outcome
    }
  }

  /// Sends of a queue what can be sent now.
  ///
  /// - Returns: `bytes` when all of it is sent.
  func send(_ queue: inout SendQueue) -> Outcome {
    while !queue.isEmpty {
      let outcome = queue.withNext { send($0.baseAddress!, $0.count) }
      guard case .bytes(let count) = outcome else { return outcome }
      queue.took(count)
    }
    return .bytes(0)
  }
}

/// Where a node listens for others.
final class StreamListener {
  let descriptor: Int32
  let port: Int
  /// No connection can be taken now, for want of descriptors or memory; those that wait would wake their thread
  /// for nothing.
  private(set) var isExhausted = false

  init(_ address: StreamAddress) throws(NodeError) {
    var bound: Int32 = 0
    let made = clinux_tcp_listen(address.host, Int32(address.port), &bound)
    guard made >= 0 else {
      throw .cannotListen(address.description, reason: String(cString: strerror(-made)))
    }
    descriptor = made
    port = Int(bound)
  }

  private init(_ descriptor: Int32, port: Int) {
    self.descriptor = descriptor
    self.port = port
  }

  deinit { close(descriptor) }

  /// The same, for another thread: each connection is accepted by one of them.
  func shared() throws(NodeError) -> StreamListener {
    let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
    guard copy >= 0 else {
      throw .cannotListen("port \(port)", reason: "\(String(cString: strerror(errno))) (ulimit -n)")
    }
    return StreamListener(copy, port: port)
  }

  /// The next connection that waits, or nil.
  func accept() -> StreamSocket? {
    let accepted = clinux_tcp_accept(descriptor)
    isExhausted = [EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(-accepted)
    return accepted >= 0 ? StreamSocket(accepted) : nil
  }
}

/// A numeric IPv4 address with a port.
package struct StreamAddress: Equatable, Sendable, CustomStringConvertible {
  package let host: String
  package let port: Int

  package init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  package var description: String { "\(host):\(port)" }
}

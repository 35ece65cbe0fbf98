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

  /// - Parameter hasMore: What follows at once may travel in the same packet.
  func send(_ memory: UnsafeRawPointer, _ count: Int, hasMore: Bool = false) -> Outcome {
    Self.outcome(
      clinux_tcp_send(descriptor, memory, count, hasMore ? 1 : 0), zeroIsClosed: false)
  }

  private static func outcome(_ result: Int, zeroIsClosed: Bool) -> Outcome {
    if result > 0 { return .bytes(result) }
    if result == 0 { return zeroIsClosed ? .closed : .nothing }
    // A connection that is still being made can be neither read nor written.
    return -result == Int(EAGAIN) || -result == Int(ENOTCONN) ? .nothing : .closed
  }

  /// Receives as much of a message as is there.
  ///
  /// - Returns: The message, once it is whole; `outcome` tells why there is none.
  func receive(
    _ intake: inout FrameIntake
  ) throws(WireError) -> (message: StreamMessage?, outcome: Outcome) {
    var outcome = Outcome.nothing
    var message: StreamMessage?
    while message == nil {
      let result: Result<StreamMessage?, WireError> = withUnsafeTemporaryAllocation(
        byteCount: intake.wanted, alignment: 1
      ) { buffer in
        outcome = receive(into: buffer.baseAddress!, atMost: buffer.count)
        guard case .bytes(let count) = outcome else { return .success(nil) }
        do throws(WireError) {
          let piece = UnsafeRawBufferPointer(rebasing: buffer[..<count])
          return .success(try intake.take(piece))
        } catch { return .failure(error) }
      }
      message = try result.get()
      guard case .bytes = outcome else { break }
    }
    return (message, outcome)
  }
}

/// Bytes that wait to be sent.
struct Outgoing {
  private var bytes: [UInt8] = []
  private var sent = 0

  var isEmpty: Bool { sent == bytes.count }

  mutating func add(_ message: StreamMessage) {
    if isEmpty {
      bytes.removeAll(keepingCapacity: true)
      sent = 0
    }
    bytes += StreamCodec.encode(message)
  }

  /// - Returns: `nothing` when all are sent or no more can be now.
  mutating func send(to socket: StreamSocket, hasMore: Bool = false) -> StreamSocket.Outcome {
    guard !isEmpty else { return .nothing }
    let outcome = bytes.withUnsafeBytes {
      socket.send($0.baseAddress! + sent, bytes.count - sent, hasMore: hasMore)
    }
    if case .bytes(let count) = outcome { sent += count }
    return outcome
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

  deinit { close(descriptor) }

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

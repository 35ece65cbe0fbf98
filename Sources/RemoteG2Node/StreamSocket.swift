internal import CLinuxShims
internal import Glibc
internal import RemoteG2Core

/// One end of a stream: bytes, encrypted where both ends have certificates, and nothing ever waits. One thread uses it,
/// and the same thread closes it.
final class StreamSocket {
  enum Outcome: Equatable {
    case bytes(Int)
    /// Not now.
    case nothing
    /// The other end has closed, or the connection is broken.
    case closed
  }

  let descriptor: Int32
  private let session: TLSSession?

  fileprivate init(_ descriptor: Int32, _ session: TLSSession? = nil) {
    self.descriptor = descriptor
    self.session = session
  }

  deinit { close(descriptor) }

  /// Begins a connection; nil when it is refused at once.
  ///
  /// - Parameters:
  ///   - place: Whose certificate the other end must show, if any is shown.
  ///   - keeper: Of this end's certificate; nil: nothing is encrypted, and nobody proves who he is.
  static func connect(_ place: Membership.Place, _ keeper: TLSKeeper?) -> StreamSocket? {
    let descriptor = clinux_tcp_connect(place.address.host, Int32(place.address.port))
    guard descriptor >= 0 else { return nil }
    guard let keeper else { return StreamSocket(descriptor) }
    let side = TLSSession.Side.connects(to: place.isNamed ? place.name : nil)
    guard let session = TLSSession(keeper.current, over: descriptor, side) else {
      close(descriptor)
      return nil
    }
    return StreamSocket(descriptor, session)
  }

  /// Where the other end is, for messages.
  var peerAddress: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { text in
      clinux_tcp_peer(descriptor, text.baseAddress!, text.count)
      return String(cString: text.baseAddress!)
    }
  }

  /// Who the other end has proved to be, by every name that its certificate has. Nil where nothing is to be proved.
  var provedNames: [String]? { session.map { $0.peerNames ?? [] } }
  /// Why the two do not believe each other, once that is known.
  var refusal: HandshakeRefusal? { session?.refusal }
  /// Whether the handshake, if there is one, is over.
  var isEstablished: Bool { session.map { $0.peerNames != nil } ?? true }
  /// Of what was sent, whether some is still here.
  var hasUnsent: Bool { session?.hasUnsent ?? false }

  /// Whether it is worth waiting until it can be written.
  ///
  /// - Parameter hasMore: There is more to send than it took.
  func waitsToSend(_ hasMore: Bool) -> Bool {
    // Before the handshake is over it is the other end that is waited for.
    hasUnsent || hasMore && isEstablished
  }

  /// Sends what is still here of what it took.
  ///
  /// - Returns: `bytes` when nothing is left of it.
  func flush() -> Outcome {
    guard let session, session.hasUnsent else { return .bytes(0) }
    guard session.flush() else { return .closed }
    return session.hasUnsent ? .nothing : .bytes(0)
  }

  func receive(into memory: UnsafeMutableRawPointer, atMost count: Int) -> Outcome {
    let result =
      session?.receive(into: memory, atMost: count) ?? clinux_tcp_receive(descriptor, memory, count)
    return Self.outcome(result, zeroIsClosed: true)
  }

  func send(_ memory: UnsafeRawPointer, _ count: Int) -> Outcome {
    guard let session else {
      return Self.outcome(clinux_tcp_send(descriptor, memory, count), zeroIsClosed: false)
    }
    var part = iovec(iov_base: UnsafeMutableRawPointer(mutating: memory), iov_len: count)
    return withUnsafePointer(to: &part) {
      Self.outcome(session.send(UnsafeBufferPointer(start: $0, count: 1)), zeroIsClosed: true)
    }
  }

  /// What does not fit `memory` goes into `rest`.
  func receive(
    into memory: UnsafeMutableRawPointer, atMost count: Int,
    then rest: UnsafeMutableRawBufferPointer
  ) -> Outcome {
    guard let session else {
      return Self.outcome(
        clinux_tcp_receive_two(descriptor, memory, count, rest.baseAddress, rest.count),
        zeroIsClosed: true)
    }
    let first = session.receive(into: memory, atMost: count)
    guard first == count, let base = rest.baseAddress else {
      return Self.outcome(first, zeroIsClosed: true)
    }
    // An end that comes now comes again.
    return .bytes(count + max(0, session.receive(into: base, atMost: rest.count)))
  }

  /// All parts in one call, one after another.
  func send(_ parts: UnsafeBufferPointer<iovec>) -> Outcome {
    if let session { return Self.outcome(session.send(parts), zeroIsClosed: true) }
    return Self.outcome(
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
    if flush() == .closed { return .closed }
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
  func accept(_ keeper: TLSKeeper?) -> StreamSocket? {
    let accepted = clinux_tcp_accept(descriptor)
    isExhausted = [EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(-accepted)
    guard accepted >= 0 else { return nil }
    guard let keeper else { return StreamSocket(accepted) }
    guard let session = TLSSession(keeper.current, over: accepted, .listens) else {
      close(accepted)
      isExhausted = true
      return nil
    }
    return StreamSocket(accepted, session)
  }
}

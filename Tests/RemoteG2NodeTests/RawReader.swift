import Foundation
import NodeTesting
import OSThreads
import RemoteG2Core

/// A member as the wire sees it: a socket that says what a test wants, and reads when it wants.
final class RawReader {
  let descriptor: Int32

  init?(_ port: Int) {
    guard let made = `A node's stream port`.connect(port) else { return nil }
    descriptor = made
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { close(descriptor) }

  func say(_ message: StreamMessage) {
    let bytes = StreamCodec.encode(message)
    _ = bytes.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
  }

  /// Asks for these blocks as a member of this name would.
  func ask(_ keys: [BlockKey], _ terms: PoolTerms) {
    say(.hello(StreamHello(node: Incarnation(high: 9, low: 9), name: "x", terms: terms)))
    say(.ask(keys: keys, isLast: true))
  }

  /// Exactly so many bytes; nil when they do not come.
  func read(_ count: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      let got = bytes.withUnsafeMutableBytes {
        recv(descriptor, $0.baseAddress! + done, count - done, 0)
      }
      guard got > 0 else { return nil }
      done += got
    }
    return bytes
  }

  func message() -> StreamMessage? {
    guard let head = read(StreamCodec.lengthBytes),
      let length = try? head.withUnsafeBytes({ try StreamCodec.length($0) }),
      let frame = read(length)
    else { return nil }
    return try? frame.withUnsafeBytes { try StreamCodec.decode($0) }
  }
}

/// Takes a hundred bytes from each reader, ten times a second.
final class SlowReading: Sendable {
  private struct State {
    var isStopping = false
    var bytesRead = 0
  }

  private let state = Guarded(State())
  private let thread: OSThread

  init(_ readers: [RawReader]) {
    let descriptors = readers.map(\.descriptor)
    thread = OSThread.start("slow-reading") { [state] in
      var bytes = [UInt8](repeating: 0, count: 100)
      while !state.withLock({ $0.isStopping }) {
        for descriptor in descriptors {
          // MSG_DONTWAIT.
          let got = recv(descriptor, &bytes, bytes.count, 0x40)
          if got > 0 { state.withLock { $0.bytesRead += got } }
        }
        OSThread.nap(.milliseconds(100))
      }
    }
  }

  var bytesRead: Int { state.withLock { $0.bytesRead } }

  func stop() {
    state.withLock { $0.isStopping = true }
    thread.join()
  }
}

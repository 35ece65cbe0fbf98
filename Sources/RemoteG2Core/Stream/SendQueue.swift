/// Frames that wait to be sent.
package struct SendQueue: Sendable {
  private var bytes: [UInt8] = []
  private var sent = 0

  package init() {}

  package var isEmpty: Bool { sent == bytes.count }
  package var count: Int { bytes.count - sent }

  package mutating func add(_ message: StreamMessage) {
    if isEmpty {
      bytes.removeAll(keepingCapacity: true)
      sent = 0
    }
    bytes += StreamCodec.encode(message)
  }

  /// The bytes that are next.
  package func withNext<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
    bytes.withUnsafeBytes { body(UnsafeRawBufferPointer(rebasing: $0[sent...])) }
  }

  /// - Parameter count: How many of them have been sent.
  package mutating func took(_ count: Int) {
    precondition(count <= self.count, "\(count) bytes of \(self.count) were sent")
    sent += count
  }
}

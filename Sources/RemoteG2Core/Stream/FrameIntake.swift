/// Puts a stream's frames together, never reading beyond one: what follows a block's frame is its bytes.
package struct FrameIntake: Sendable {
  private var bytes: [UInt8] = []
  private var target = StreamCodec.lengthBytes
  private var isInFrame = false

  package init() {}

  /// How many bytes to give to ``take(_:)`` at most. Never 0.
  package var wanted: Int { target - bytes.count }
  /// Whether some of a frame is here.
  package var isEmpty: Bool { bytes.isEmpty && !isInFrame }

  /// - Parameter piece: At most ``wanted`` bytes.
  /// - Returns: The message, once its last byte is here.
  /// - Throws: For what is no frame of this version. Nothing after it means anything.
  package mutating func take(
    _ piece: UnsafeRawBufferPointer
  ) throws(WireError) -> StreamMessage? {
    precondition(piece.count <= wanted, "\(piece.count) bytes where \(wanted) were wanted")
    bytes.append(contentsOf: piece)
    guard wanted == 0 else { return nil }
    let whole = bytes
    bytes.removeAll(keepingCapacity: true)
    if isInFrame {
      isInFrame = false
      target = StreamCodec.lengthBytes
      return try Self.reading(whole, StreamCodec.decode)
    }
    target = try Self.reading(whole, StreamCodec.length)
    isInFrame = true
    return nil
  }

  private static func reading<Value>(
    _ bytes: [UInt8], _ read: (UnsafeRawBufferPointer) throws(WireError) -> Value
  ) throws(WireError) -> Value {
    let result: Result<Value, WireError> = bytes.withUnsafeBytes { raw in
      do throws(WireError) { return .success(try read(raw)) } catch { return .failure(error) }
    }
    return try result.get()
  }
}

/// What copies pages that the processor cannot reach. The engine's, or the one for CUDA.
public struct PageDevice: @unchecked Sendable {
  // @unchecked: its functions are called as `remote_g2.h` says: `copy` by the rank's thread, the others by any.
  /// Makes memory of this process reachable: the address, its size, and whether it is mapped for reading only.
  /// What could not be made reachable is copied all the same, more slowly.
  let map: (UnsafeMutableRawPointer, Int, Bool) -> Bool
  /// Nothing is copied from or to it any more.
  let unmap: (UnsafeMutableRawPointer) -> Void
  /// Carries copies out, to the device or from it, and returns when the last byte is there, or false.
  let copy: ([PageCopy], _ isToDevice: Bool) -> Bool

  public init(
    map: @escaping (UnsafeMutableRawPointer, Int, Bool) -> Bool,
    unmap: @escaping (UnsafeMutableRawPointer) -> Void,
    copy: @escaping ([PageCopy], _ isToDevice: Bool) -> Bool
  ) {
    self.map = map
    self.unmap = unmap
    self.copy = copy
  }
}

/// Rows of bytes between a device's memory and this process's.
public struct PageCopy: Equatable {
  public let device: UnsafeMutableRawPointer
  public let host: UnsafeMutableRawPointer
  /// Of a row.
  public let bytes: Int
  public let rows: Int
  /// From one row to the next one.
  public let deviceStride: Int
  public let hostStride: Int

  public init(
    device: UnsafeMutableRawPointer, host: UnsafeMutableRawPointer, bytes: Int, rows: Int,
    deviceStride: Int, hostStride: Int
  ) {
    self.device = device
    self.host = host
    self.bytes = bytes
    self.rows = rows
    self.deviceStride = deviceStride
    self.hostStride = hostStride
  }
}

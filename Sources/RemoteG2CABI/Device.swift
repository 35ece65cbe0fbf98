internal import CRemoteG2
internal import RemoteG2Core
internal import RemoteG2Library

extension PageDevice {
  /// - Returns: Nil for none: the pages are in host memory.
  init?(_ pointer: UnsafeRawPointer?) throws(CallFailure) {
    guard let pointer else { return nil }
    let device = pointer.load(as: rg2_device.self)
    guard let map = device.map, let unmap = device.unmap, let copy = device.copy else {
      throw .invalid("the device lacks one of its functions")
    }
    self.init(
      map: { base, bytes, isReadOnly in
        map(device.context, base, UInt64(bytes), isReadOnly ? 1 : 0) == 0
      },
      unmap: { unmap(device.context, $0) },
      copy: { copies, isToDevice in
        guard !copies.isEmpty else { return true }
        let rows = copies.map {
          rg2_copy(
            device: $0.device, host: $0.host, bytes: UInt64($0.bytes), rows: UInt64($0.rows),
            device_stride: UInt64($0.deviceStride), host_stride: UInt64($0.hostStride))
        }
        return copy(device.context, rows, UInt32(rows.count), isToDevice ? 1 : 0) == 0
      })
  }
}

@_cdecl("rg2_cuda_open")
public func cudaOpen(
  _ ordinal: Int32, _ stream: UnsafeMutableRawPointer?
) -> UnsafeMutableRawPointer? {
  var reason = [CChar](repeating: 0, count: 256)
  guard let device = cremoteg2_cuda_open(ordinal, stream, &reason, reason.count) else {
    let text = reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
    LastFailure.note(.invalid(String(decoding: text, as: UTF8.self)))
    return nil
  }
  return UnsafeMutableRawPointer(device)
}

@_cdecl("rg2_cuda_close")
public func cudaClose(_ device: UnsafeMutableRawPointer?) {
  guard let device else { return }
  cremoteg2_cuda_close(device.assumingMemoryBound(to: rg2_device.self))
}

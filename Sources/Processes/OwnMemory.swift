internal import CLinuxShims

/// What this process itself takes.
package enum OwnMemory {
  /// Bytes that are allocated and not freed.
  package static var allocatedBytes: Int { clinux_allocated() }
}

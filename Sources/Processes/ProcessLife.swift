internal import CLinuxShims

/// Of this process.
package enum ProcessLife {
  /// From now on it is killed when the thread that started it ends, even while it is stopped. Whoever may have
  /// lost its parent before has to find that out by other means.
  package static func endsWithParent() { clinux_end_with_parent() }
}

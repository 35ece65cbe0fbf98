internal import CLinuxShims
internal import OSThreads

/// Of this process.
package enum ProcessLife {
  /// From now on it is killed when the thread that started it ends, even while it is stopped. Whoever may have
  /// lost its parent before has to find that out by other means.
  package static func endsWithParent() {
    // The system forgets it with the thread that asks for it, and the caller's may be one that ends when it is idle.
    let bell = Doorbell()
    OSThread.start("parent") {
      clinux_end_with_parent()
      bell.ring()
      while true { OSThread.nap(.seconds(3600)) }
    }.detach()
    bell.wait(atMost: .seconds(5))
  }
}

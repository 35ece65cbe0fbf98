internal import OSThreads
internal import RemoteG2Core

/// Memory that a device reaches, from soon after this is made until it is ended. A large pool takes a while to be made
/// reachable, and to be let go: a thread of its own does both, and copies before it is done are slower.
final class MappedMemory {
  private struct Job: @unchecked Sendable {
    // @unchecked: an address and a device whose functions any thread may call.
    let device: PageDevice
    let base: UnsafeMutableRawPointer
    let bytes: Int
    let isReadOnly: Bool
    /// Who unmaps the memory when it goes.
    let owner: AnyObject
  }

  private let bell = Doorbell()
  private let isEnding = Guarded(false)
  private let isOver = Guarded(false)
  private let thread: OSThread

  /// - Parameter owner: Kept until the device has let the memory go.
  init(
    _ device: PageDevice, _ base: UnsafeMutableRawPointer, _ bytes: Int, isReadOnly: Bool,
    of owner: AnyObject
  ) {
    let job = Job(
      device: device, base: base, bytes: bytes, isReadOnly: isReadOnly, owner: owner)
    let (bell, isEnding, isOver) = (bell, isEnding, isOver)
    thread = OSThread.start("map") {
      withExtendedLifetime(job.owner) {
        let isMapped = job.device.map(job.base, job.bytes, job.isReadOnly)
        while !isEnding.withLock({ $0 }) { bell.wait(atMost: .seconds(3600)) }
        if isMapped { job.device.unmap(job.base) }
      }
      isOver.withLock { $0 = true }
    }
  }

  /// Nothing is copied from or to it any more. Waits for nothing.
  func end() {
    isEnding.withLock { $0 = true }
    bell.ring()
  }

  /// Whether the device has let it go.
  var hasEnded: Bool { isOver.withLock { $0 } }

  /// Waits until it has.
  func join() {
    end()
    thread.join()
  }
}

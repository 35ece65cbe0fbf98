internal import OSThreads

/// Memory that a device reaches for as long as this is kept. A large pool takes a while to be made reachable: a
/// thread of its own does that, and copies before it is done are slower.
final class MappedMemory {
  private struct Job: @unchecked Sendable {
    // @unchecked: an address and a device whose functions any thread may call.
    let device: PageDevice
    let base: UnsafeMutableRawPointer
    let bytes: Int
    let isReadOnly: Bool
  }

  private let job: Job
  private let isMapped = Guarded(false)
  private let thread: OSThread

  init(_ device: PageDevice, _ base: UnsafeMutableRawPointer, _ bytes: Int, isReadOnly: Bool) {
    let job = Job(device: device, base: base, bytes: bytes, isReadOnly: isReadOnly)
    self.job = job
    let isMapped = isMapped
    thread = OSThread.start("map") {
      let done = job.device.map(job.base, job.bytes, job.isReadOnly)
      isMapped.withLock { $0 = done }
    }
  }

  deinit {
    thread.join()
    if isMapped.withLock({ $0 }) { job.device.unmap(job.base) }
  }
}

internal import Glibc
package import LocalStore
package import NIXL

/// The store's NIXL agent: registers the pools once, and answers readers by itself for the life of
/// the process.
package final class ServingAgent {
  // Declared in the order they must end.
  private var registrations: [RegistrationHolder] = []
  private let agent: Agent
  /// Framed, for the handshake.
  package let metadata: [UInt8]

  private final class RegistrationHolder {
    let registration: Registration
    init(_ registration: consuming Registration) { self.registration = registration }
  }

  package init(name: String, pools: [PoolMemory], library: NIXLLibrary) throws(NIXLError) {
    let agent = try Agent(name: name, hasProgressThread: true, library: library)
    var holders: [RegistrationHolder] = []
    for pool in pools {
      let memory = UnsafeRawBufferPointer(
        start: pool.base, count: pool.slotCount * pool.blockBytes)
      holders.append(RegistrationHolder(try agent.register(memory)))
    }
    metadata = try agent.metadata()
    self.agent = agent
    registrations = holders
  }
}

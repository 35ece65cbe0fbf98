internal import Glibc
package import LocalStore
package import NIXL

/// A NIXL agent that has registered the ranks' pools of one engine's kind, and answers readers by itself for the
/// life of the process. The pools are mapped for reading: whoever reads them cannot change them.
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

  package init(name: String, pools: [PoolMapping], library: NIXLLibrary) throws(NIXLError) {
    let agent = try Agent(name: name, hasProgressThread: true, library: library)
    var holders: [RegistrationHolder] = []
    for pool in pools {
      let memory = UnsafeRawBufferPointer(
        start: pool.base, count: pool.shape.slotCount * pool.shape.blockBytes)
      holders.append(RegistrationHolder(try agent.register(memory)))
    }
    metadata = try agent.metadata()
    self.agent = agent
    registrations = holders
  }
}

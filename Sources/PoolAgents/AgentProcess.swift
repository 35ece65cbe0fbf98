internal import Foundation
package import LocalStore
package import NIXL
internal import OSThreads
internal import Processes
internal import RemoteG2Core

/// Why the process that peers read a pool from cannot go on.
package enum AgentError: Error, Sendable, CustomStringConvertible {
  case nixl(NIXLError)
  case pool(PoolError)
  case node(String)

  package var description: String {
    switch self {
    case .nixl(let error):
      "NIXL cannot serve the pool: \(error); run `remote-g2 doctor`, or give the node no --direct"
    case .pool(let error): "\(error)"
    case .node(let what): "the node \(what)"
    }
  }
}

/// What an agent tells its node once it can be read from.
struct AgentAnnouncement: Codable {
  /// Of its NIXL agent, framed.
  let metadata: Data
  /// Of slot 0 of each rank's pool, in this process.
  let addresses: [UInt64]
}

/// The process that peers read a pool from. UCX lives and dies here, and nowhere else in a node: what it maps it
/// cannot write, and nobody waits for it.
///
/// Its node gives it each rank's pool as it gives it to an engine's rank: a welcome with a descriptor.
package enum AgentProcess {
  /// Tells the node that no agent will ever serve here.
  package static func refuse(over connection: Int32, because reason: String) {
    _ = LocalSocket(adopting: connection).send(.refused(reason))
  }

  /// A wait is never longer, though nothing is missed by it.
  private static let waitMax: Duration = .seconds(1)

  /// Serves until the node's end of the connection is closed, however the node went.
  ///
  /// - Parameters:
  ///   - connection: To the node; from now on it belongs to this call.
  ///   - name: Of the NIXL agent: unique for ever.
  package static func run(
    over connection: Int32, name: String, ranks: Int, library: NIXLLibrary
  ) throws(AgentError) {
    let socket = LocalSocket(adopting: connection)
    // Even where both were stopped, or this process hangs.
    ProcessLife.endsWithParent()
    let bell = EventBell()
    var pools: [PoolMapping] = []
    while pools.count < ranks {
      switch socket.receive() {
      case .message(.welcome(let welcome), let descriptors):
        guard let descriptor = descriptors.take() else { throw .node("sent no pool") }
        defer { close(descriptor) }
        do throws(PoolError) {
          pools.append(
            try PoolMapping(
              descriptor, slotCount: welcome.slotCount, blockBytes: welcome.blockBytes,
              owner: welcome.store))
        } catch { throw .pool(error) }
      case .message, .malformed: throw .node("said something else than which pools to serve")
      case .closed: return
      case .nothing:
        _ = bell.wait(until: MonotonicClock.now() + waitMax, hearing: [socket.descriptor])
      }
    }
    let agent: ServingAgent
    do throws(NIXLError) {
      agent = try ServingAgent(name: name, pools: pools, library: library)
    } catch { throw .nixl(error) }
    let announcement = AgentAnnouncement(
      metadata: Data(agent.metadata), addresses: pools.map { UInt64(UInt(bitPattern: $0.base)) })
    guard let json = try? JSONEncoder().encode(announcement) else {
      preconditionFailure("numbers and bytes can be written as text")
    }
    guard socket.sendReport(0, String(decoding: json, as: UTF8.self)) else { return }
    while true {
      switch socket.receive() {
      case .message: continue
      case .malformed, .closed:
        withExtendedLifetime((agent, pools)) {}
        return
      case .nothing:
        _ = bell.wait(until: MonotonicClock.now() + waitMax, hearing: [socket.descriptor])
      }
    }
  }
}

internal import Glibc
internal import OSThreads
internal import RemoteG2Control
package import RemoteG2Core
package import RemoteG2Node

/// A node as those peers see it that read its pools by themselves. The node's core answers; every call holds its
/// lock for microseconds.
package final class DirectService: StoreBackend {
  private let node = Guarded<Node?>(nil)

  /// Until ``serve(_:)`` peers are told to come again.
  package init(serving node: Node? = nil) { self.node.withLock { $0 = node } }

  package func serve(_ node: Node) { self.node.withLock { $0 = node } }

  private func decide<Answer>(_ body: (inout NodeCore, LocalInstant) -> Answer) -> Answer? {
    node.withLock { $0 }?.decide(body)
  }

  package func introduce(to fingerprint: Fingerprint) -> Introduction? {
    node.withLock { $0 }.flatMap { $0.look { $0.introduce(to: fingerprint, process: getpid()) } }
  }

  package func resolve(
    _ keys: [BlockKey], as lease: LeaseID, ttl: Duration?
  ) -> ResolveAnswer {
    decide { core, now in core.resolve(keys, as: lease, ttl: ttl, at: now) } ?? .refused(.gone)
  }

  package func renew(_ lease: LeaseID, ttl: Duration?) -> RenewAnswer {
    decide { core, now in core.renew(lease, ttl: ttl, at: now) } ?? .gone
  }

  package func confirm(_ lease: LeaseID) -> ConfirmAnswer {
    decide { core, now in core.confirm(lease, at: now) } ?? .gone
  }

  package func release(_ lease: LeaseID) -> ReleaseAnswer {
    decide { core, now in core.release(lease, at: now) } ?? .gone
  }

  package func stats() -> (Incarnation, StoreStats) {
    let node = node.withLock { $0 }
    return (
      node?.incarnation ?? Incarnation(high: 0, low: 0), node?.look(\.storeStats) ?? StoreStats()
    )
  }
}

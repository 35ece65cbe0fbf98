internal import Glibc
internal import RemoteG2Control
package import RemoteG2Core
package import RemoteG2Node

/// A node as those peers see it that read its pools by themselves. The node's core answers; every call holds its
/// lock for microseconds.
package final class DirectService: StoreBackend {
  private let node: Node

  package init(_ node: Node) { self.node = node }

  package func introduce(to fingerprint: Fingerprint) -> Introduction? {
    node.look { $0.introduce(to: fingerprint, process: getpid()) }
  }

  package func resolve(
    _ keys: [BlockKey], as lease: LeaseID, ttl: Duration?
  ) -> ResolveAnswer {
    node.decide { core, now in core.resolve(keys, as: lease, ttl: ttl, at: now) }
  }

  package func renew(_ lease: LeaseID, ttl: Duration?) -> RenewAnswer {
    node.decide { core, now in core.renew(lease, ttl: ttl, at: now) }
  }

  package func confirm(_ lease: LeaseID) -> ConfirmAnswer {
    node.decide { core, now in core.confirm(lease, at: now) }
  }

  package func release(_ lease: LeaseID) -> ReleaseAnswer {
    node.decide { core, now in core.release(lease, at: now) }
  }

  package func stats() -> (Incarnation, StoreStats) {
    (node.incarnation, node.look(\.storeStats))
  }
}

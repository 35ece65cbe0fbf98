/// The target's hold on a grant. It cannot be copied, and dropping it is a bug in this process:
/// every path surrenders it, and surrendering is what orders the release.
package struct HeldLease: ~Copyable, Sendable {
  package let id: LeaseID

  package init(_ id: LeaseID) { self.id = id }

  package consuming func surrender() -> LeaseID {
    let id = self.id
    discard self
    return id
  }

  deinit { Self.trapOnDrop(id) }

  private static func trapOnDrop(_ id: LeaseID) {
    preconditionFailure("\(id) was dropped without being released")
  }
}

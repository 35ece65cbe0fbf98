/// The target's hold on a lease that it has asked for. It cannot be copied, and dropping it traps: every path
/// surrenders it, and then orders the release under the name it got, unless the source has refused the lease.
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

internal import CNIXL

/// Runs of memory prepared once, to be named by position in many transfers.
///
/// NIXL reads a list's memory without checking that it is still registered, so a local list keeps
/// its registration alive.
package struct DescriptorList: ~Copyable {
  let box: ListBox

  package var count: Int { box.count }

  /// Local memory, as offsets into a registration.
  package static func local(
    _ extents: [(offset: Int, count: Int)], in registration: borrowing Registration,
    of agent: borrowing Agent
  ) throws(NIXLError) -> DescriptorList {
    let memory = registration.box.memory
    let base = UInt(bitPattern: memory.baseAddress)
    for extent in extents {
      precondition(
        extent.offset >= 0 && extent.count > 0 && extent.offset + extent.count <= memory.count,
        "a local descriptor lies outside its registration")
    }
    return DescriptorList(
      box: try ListBox(
        extents.map { (base + UInt($0.offset), $0.count) }, peer: nil, agent.core,
        registration.box))
  }

  /// A peer's memory, by the addresses its store announced.
  package static func remote(
    _ extents: [(address: UInt, count: Int)], peer: String, of agent: borrowing Agent
  ) throws(NIXLError) -> DescriptorList {
    DescriptorList(box: try ListBox(extents, peer: peer, agent.core, nil))
  }
}

final class ListBox {
  let handle: cnixl_list_t
  let count: Int
  private let core: AgentCore
  private let registration: RegistrationBox?

  init(
    _ extents: [(address: UInt, count: Int)], peer: String?, _ core: AgentCore,
    _ registration: RegistrationBox?
  ) throws(NIXLError) {
    var list: cnixl_extents_t?
    try check("create_xfer_dlist", cnixl_create_xfer_dlist(Int32(CNIXL_MEM_DRAM), &list))
    defer { _ = cnixl_destroy_xfer_dlist(list) }
    for extent in extents {
      try check(
        "xfer_dlist_add_desc", cnixl_xfer_dlist_add_desc(list, extent.address, extent.count, 0))
    }
    var handle: cnixl_list_t?
    // An empty name means "this agent".
    try check(
      "prep_xfer_dlist",
      cnixl_prep_xfer_dlist(core.handle, peer ?? "", list, &handle, core.options))
    guard let handle else { throw .call("prep_xfer_dlist", .notFound) }
    self.handle = handle
    self.count = extents.count
    self.core = core
    self.registration = registration
    core.adoptList(handle)
  }

  deinit { core.releaseList(handle) }
}

internal import CNIXL

/// Memory that NIXL may read and write. Ends when the last list made from it has ended.
package struct Registration: ~Copyable {
  let box: RegistrationBox
  package var byteCount: Int { box.memory.count }
}

final class RegistrationBox {
  let memory: UnsafeRawBufferPointer
  private let core: AgentCore
  private var regions: cnixl_regions_t?

  init(_ memory: UnsafeRawBufferPointer, _ core: AgentCore) throws(NIXLError) {
    self.memory = memory
    self.core = core
    try check("create_reg_dlist", cnixl_create_reg_dlist(Int32(CNIXL_MEM_DRAM), &regions))
    do {
      try check(
        "reg_dlist_add_desc",
        cnixl_reg_dlist_add_desc(
          regions, UInt(bitPattern: memory.baseAddress), memory.count, 0, nil, 0))
      try check("register_mem", cnixl_register_mem(core.handle, regions, core.options))
    } catch {
      _ = cnixl_destroy_reg_dlist(regions)
      regions = nil
      throw error
    }
  }

  deinit {
    guard let regions else { return }
    // After a fence the agent is gone, and its registrations with it.
    if core.handle != nil { _ = cnixl_deregister_mem(core.handle, regions, core.options) }
    _ = cnixl_destroy_reg_dlist(regions)
  }
}

internal import CNIXL
internal import Glibc
internal import OSThreads

/// One NIXL agent with one UCX backend, and the only owner of both.
///
/// Confined to the thread that uses it. Everything made from an agent keeps the agent's core alive,
/// so no handle can outlive what it points into; ``destroy()`` ends them all at once.
package struct Agent: ~Copyable {
  let core: AgentCore

  /// - Parameters:
  ///   - name: Unique for ever: NIXL keys its peers by it. Use an incarnation.
  ///   - hasProgressThread: On for a serving agent, which must answer readers by itself; off for a
  ///     pulling one, whose polls drive it.
  package init(
    name: String, hasProgressThread: Bool, library: NIXLLibrary
  ) throws(NIXLError) {
    core = try AgentCore(name: name, hasProgressThread: hasProgressThread)
  }

  package var name: String { core.name }

  /// What becomes readable when something arrives for this agent over tcp. Polls still drive it.
  package var eventDescriptors: [Int32] { core.eventDescriptors }

  /// This agent's connection data and registered regions, framed for travel.
  package func metadata() throws(NIXLError) -> [UInt8] {
    var bytes: UnsafeMutableRawPointer?
    var count = 0
    try check("get_local_md", cnixl_get_local_md(core.handle, &bytes, &count))
    // The C API allocates with malloc and leaves the freeing to its caller.
    defer { free(bytes) }
    return MetadataFrame.encode(Array(UnsafeRawBufferPointer(start: bytes, count: count)))
  }

  /// Learns a peer from its framed metadata.
  ///
  /// - Returns: The peer's agent name.
  /// - Throws: ``NIXLError/metadata(_:)`` before NIXL has seen a byte of a bad frame.
  package func loadPeer(_ frame: [UInt8], bytesMax: Int) throws(NIXLError) -> String {
    let payload: [UInt8]
    do { payload = try MetadataFrame.decode(frame, bytesMax: bytesMax) } catch {
      throw .metadata(error)
    }
    var name: UnsafeMutablePointer<CChar>?
    try check(
      "load_remote_md", cnixl_load_remote_md(core.handle, payload, payload.count, &name))
    defer { free(name) }
    guard let name else { throw .call("load_remote_md", .notFound) }
    return String(cString: name)
  }

  /// Opens the endpoint now, so that the first read does not pay for it.
  package func connect(to peer: String) throws(NIXLError) {
    try check("agent_make_connection", cnixl_agent_make_connection(core.handle, peer, core.options))
  }

  /// Registers memory for local and remote access.
  ///
  /// The memory must stay mapped until the registration and everything made from it has ended.
  package func register(_ memory: UnsafeRawBufferPointer) throws(NIXLError) -> Registration {
    Registration(box: try RegistrationBox(memory, core))
  }

  /// Requests that were dropped before they were quiet and still wait to be. Drives progress.
  package func sweepOrphans() -> Int { core.sweepOrphans() }

  package var orphanCount: Int { core.orphans.count }

  /// The fence: after it returns nothing this agent posted will write again.
  ///
  /// Allowed only when the peer is proved dead, when nothing is in progress, or at shutdown: over
  /// tcp, fencing a live or stopped peer can abort that peer.
  package consuming func destroy() { core.destroy() }
}

/// What an agent's registrations, lists and requests share.
final class AgentCore {
  let name: String
  private(set) var handle: cnixl_agent_t?
  private var backend: cnixl_backend_t?
  private(set) var options: cnixl_options_t?
  /// UCX does not hand its epoll descriptors out: these appeared while the backend was made.
  private(set) var eventDescriptors: [Int32] = []
  /// Each with the lists it reads through, so that those outlive it.
  var orphans: [(request: cnixl_request_t, lists: [ListBox])] = []
  /// Live handles, so that a fence can end them before the agent they point into.
  private var requests: Set<cnixl_request_t> = []
  private var lists: Set<cnixl_list_t> = []

  init(name: String, hasProgressThread: Bool) throws(NIXLError) {
    self.name = name
    var config = cnixl_agent_config()
    config.enable_progress_thread = hasProgressThread
    config.num_workers = 1
    // How long it waits for UCX's descriptors before it looks without being woken. 0 spins a whole core, and less than a
    // millisecond counts as one: 0.03 core of an idle agent.
    config.progress_delay_us = 10_000
    try check("create_configured_agent", cnixl_create_configured_agent(name, &config, &handle))
    do {
      var memoryKinds: cnixl_mem_list_t?
      var parameters: cnixl_params_t?
      try check(
        "get_plugin_params", cnixl_get_plugin_params(handle, "UCX", &memoryKinds, &parameters))
      defer {
        _ = cnixl_destroy_mem_list(memoryKinds)
        _ = cnixl_destroy_params(parameters)
      }
      let before = EpollDescriptors.open()
      try check("create_backend", cnixl_create_backend(handle, "UCX", parameters, &backend))
      eventDescriptors = EpollDescriptors.open().subtracting(before).sorted()
      try check("create_opt_args", cnixl_create_opt_args(&options))
      try check("opt_args_add_backend", cnixl_opt_args_add_backend(options, backend))
    } catch {
      destroy()
      throw error
    }
  }

  deinit { destroy() }

  /// Ends every handle, in the only safe order: requests, lists, agent.
  func destroy() {
    guard let agent = handle else { return }
    for request in requests {
      _ = cnixl_release_xfer_req(agent, request)
      _ = cnixl_destroy_xfer_req(request)
    }
    requests = []
    orphans = []
    for list in lists { _ = cnixl_release_xfer_dlist_handle(agent, list) }
    lists = []
    _ = cnixl_destroy_agent(agent)
    handle = nil
    if let options { _ = cnixl_destroy_opt_args(options) }
    if let backend { _ = cnixl_destroy_backend(backend) }
    options = nil
    backend = nil
  }

  func adoptRequest(_ request: cnixl_request_t) { requests.insert(request) }
  func adoptList(_ list: cnixl_list_t) { lists.insert(list) }

  func releaseList(_ list: cnixl_list_t) {
    guard handle != nil, lists.remove(list) != nil else { return }
    _ = cnixl_release_xfer_dlist_handle(handle, list)
  }

  /// Gives a request back to NIXL. Its status must be terminal.
  func releaseRequest(_ request: cnixl_request_t) -> NIXLStatus {
    // A fence has already ended every request of this agent.
    guard handle != nil, requests.remove(request) != nil else { return .success }
    let status = NIXLStatus(cnixl_release_xfer_req(handle, request))
    _ = cnixl_destroy_xfer_req(request)
    return status
  }

  func sweepOrphans() -> Int {
    guard handle != nil else { return 0 }
    var kept: [(request: cnixl_request_t, lists: [ListBox])] = []
    for orphan in orphans {
      if NIXLStatus(cnixl_get_xfer_status(handle, orphan.request)) == .inProgress {
        kept.append(orphan)
      } else {
        _ = releaseRequest(orphan.request)
      }
    }
    orphans = kept
    return kept.count
  }
}

internal import CNIXL

/// A prepared NIXL read, and the only owner of its handle.
///
/// Releasing a request that is still moving does not stop it: the bytes keep landing. So a request
/// is released only after a terminal status, and one that is dropped earlier is adopted by its
/// agent, which keeps polling it.
package struct TransferRequest: ~Copyable {
  private let core: AgentCore
  private let handle: cnixl_request_t
  private let lists: [ListBox]
  private var isTerminal = true

  /// Prepares a read of `remote[sources[i]]` into `local[targets[i]]`.
  package init(
    reading sources: [Int32], of remote: borrowing DescriptorList,
    into targets: [Int32], of local: borrowing DescriptorList, on agent: borrowing Agent
  ) throws(NIXLError) {
    precondition(sources.count == targets.count && !sources.isEmpty, "a read pairs its blocks")
    var request: cnixl_request_t?
    try check(
      "make_xfer_req",
      cnixl_make_xfer_req(
        agent.core.handle, Int32(CNIXL_READ), local.box.handle, targets, targets.count,
        remote.box.handle, sources, sources.count, &request, agent.core.options))
    guard let request else { throw .call("make_xfer_req", .notFound) }
    core = agent.core
    handle = request
    lists = [local.box, remote.box]
    core.adoptRequest(request)
  }

  deinit {
    guard core.handle != nil else { return }
    if isTerminal {
      _ = core.releaseRequest(handle)
    } else {
      core.orphans.append((handle, lists))
    }
  }

  /// Starts it. Over cma the whole copy happens inside this call.
  package mutating func post() -> NIXLStatus {
    let status = NIXLStatus(cnixl_post_xfer_req(core.handle, handle, core.options))
    isTerminal = status != .inProgress
    return status
  }

  /// Asks how it is going, and drives this agent's progress. May take milliseconds.
  ///
  /// Only `success` means quiet. A failure is reported at the first failed piece, while others may
  /// still be moving.
  package mutating func poll() -> NIXLStatus {
    guard !isTerminal else { preconditionFailure("a terminal request is polled") }
    let status = NIXLStatus(cnixl_get_xfer_status(core.handle, handle))
    isTerminal = status != .inProgress
    return status
  }
}

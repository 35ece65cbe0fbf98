internal import Glibc
public import KVTransfer
package import NIXL
public import RemoteG2Core

/// Reads peers' pools over NIXL, with one pulling agent per source.
///
/// NIXL has no cancel, and a failed request may still be writing. So a failed source is fenced by
/// destroying its agent, and only when that is safe: the source is proved dead, or none of its
/// requests is in progress. The agent is made again at the next post.
public final class NIXLTransport: Transport {
  private struct InFlight: ~Copyable {
    let transfer: TransferID
    var request: TransferRequest
  }

  /// One source's agent and all that was made from it, declared in the order it must be dropped.
  private final class Binding {
    var inFlight: [Box] = []
    var failed: [TransferID] = []
    let remote: DescriptorList
    let local: DescriptorList
    var agent: Agent?
    let eventDescriptors: [Int32]
    var lastUse: LocalInstant

    init(
      agent: consuming Agent, local: consuming DescriptorList, remote: consuming DescriptorList,
      at now: LocalInstant
    ) {
      eventDescriptors = agent.eventDescriptors
      self.agent = consume agent
      self.local = local
      self.remote = remote
      lastUse = now
    }

    final class Box {
      var value: InFlight
      init(_ value: consuming InFlight) { self.value = value }
    }

    func fence() {
      inFlight = []
      if let agent = agent.take() { agent.destroy() }
    }
  }

  private let target: BlockRegion
  private let library: NIXLLibrary
  private let name: String
  private let limits: Limits
  private var known: [SourceID: SourceDescription] = [:]
  private var bindings: [SourceID: Binding] = [:]
  private var ended: [(TransferID, TransferFailure)] = []
  private var agentSerial = 0
  private let isOverTCP: Bool

  /// - Parameters:
  ///   - name: Prefix of this process's agent names; an incarnation, so never reused.
  ///   - isOverTCP: Whether UCX was told to move everything over tcp (`UCX_TLS=tcp`).
  package init(
    target: BlockRegion, library: NIXLLibrary, name: String, limits: Limits,
    isOverTCP: Bool = getenv("UCX_TLS").map { String(cString: $0) == "tcp" } ?? false
  ) {
    self.isOverTCP = isOverTCP
    self.target = target
    self.library = library
    self.name = name
    self.limits = limits
  }

  /// Makes the agent and its connection now, so that a first pull does not pay for them.
  public func attach(
    _ source: SourceID, _ description: SourceDescription
  ) throws(TransferFailure) {
    guard case .nixl(let pool) = description else {
      throw .rejected("NIXL reads peers' pools only")
    }
    guard pool.blockBytes == target.blockBytes else {
      throw .rejected("blocks of \(pool.blockBytes) bytes cannot land in \(target.blockBytes)")
    }
    let (bytes, overflow) = pool.slotCount.multipliedReportingOverflow(by: pool.blockBytes)
    guard pool.slotCount > 0, pool.slotCount <= limits.slotsMax, !overflow, !pool.metadata.isEmpty,
      !pool.address.addingReportingOverflow(UInt64(bytes)).overflow
    else { throw .rejected("a pool of \(pool.slotCount) slots at an impossible place") }
    if bindings[source] != nil, case .nixl(let bound)? = known[source],
      bound.address != pool.address || bound.slotCount != pool.slotCount
    {
      throw .rejected(
        "a source that moved its pool: \(bound.slotCount) slots became \(pool.slotCount)")
    }
    known[source] = description
    _ = try binding(of: source, at: LocalInstant(nanoseconds: 0))
  }

  public func detach(_ source: SourceID) {
    known[source] = nil
    guard let binding = bindings[source], binding.inFlight.isEmpty, binding.failed.isEmpty else {
      return
    }
    binding.fence()
    bindings[source] = nil
  }

  public func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure) {
    guard case .nixl(let pool)? = known[source] else { throw .unknownSource }
    for move in moves where move.source.index < 0 || move.source.index >= pool.slotCount {
      throw .rejected("\(move.source) is outside a pool of \(pool.slotCount)")
    }
    let binding = try binding(of: source, at: now)
    binding.lastUse = now
    // A failed source takes nothing new until it has been fenced.
    guard binding.failed.isEmpty else { throw .rejected("the source has failed") }
    do {
      var request = try TransferRequest(
        reading: moves.map(\.source.value), of: binding.remote,
        into: moves.map(\.target.value), of: binding.local, on: binding.agent!)
      switch request.post() {
      case .inProgress:
        binding.inFlight.append(
          .init(InFlight(transfer: transfer, request: request)))
      case .success:
        // Over cma the copy is done already. Told by the next poll, as every landing is.
        landedAtPost.append(transfer)
        _ = consume request
      case let status:
        // Part of it may have been posted: it is failed, and not quiet.
        binding.failed.append(transfer)
        ended.append((transfer, .backend("post: \(status)")))
      }
    } catch {
      throw .rejected("\(error)")
    }
  }

  private var landedAtPost: [TransferID] = []

  public func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
    for transfer in landedAtPost { events.append(.landed(transfer, at: now)) }
    landedAtPost.removeAll(keepingCapacity: true)
    for (transfer, failure) in ended { events.append(.failed(transfer, failure, at: now)) }
    ended.removeAll(keepingCapacity: true)
    for (source, binding) in bindings {
      poll(binding, at: now, into: &events)
      if !binding.failed.isEmpty, binding.inFlight.isEmpty {
        end(binding, of: source, at: now, into: &events)
      }
    }
  }

  /// Oldest first: it is the one whose landing lets the caller go on.
  private func poll(
    _ binding: Binding, at now: LocalInstant, into events: inout [TransferEvent]
  ) {
    var index = 0
    while index < binding.inFlight.count {
      let transfer = binding.inFlight[index].value.transfer
      switch binding.inFlight[index].value.request.poll() {
      case .inProgress:
        index += 1
      case .success:
        events.append(.landed(transfer, at: now))
        binding.inFlight.remove(at: index)
      case let status:
        events.append(.failed(transfer, .backend("status: \(status)"), at: now))
        binding.failed.append(transfer)
        binding.inFlight.remove(at: index)
      }
    }
  }

  private func end(
    _ binding: Binding, of source: SourceID, at now: LocalInstant,
    into events: inout [TransferEvent]
  ) {
    binding.fence()
    bindings[source] = nil
    for transfer in binding.failed { events.append(.quiet(transfer, at: now)) }
  }

  public func fence(_ source: SourceID) {
    known[source] = nil
    guard let binding = bindings[source] else { return }
    for box in binding.inFlight {
      ended.append((box.value.transfer, .backend("the source is dead")))
      binding.failed.append(box.value.transfer)
    }
    if binding.inFlight.isEmpty, binding.failed.isEmpty {
      binding.fence()
      bindings[source] = nil
      return
    }
    binding.inFlight = []
    // The next poll tells the failures, finds nothing in flight, and destroys the agent.
  }

  public var inFlightCount: Int {
    bindings.values.reduce(0) { $0 + $1.inFlight.count + $1.failed.count }
  }

  /// Known where UCX moves bytes over tcp alone; other transports are only seen by polling.
  public var eventDescriptors: [Int32]? {
    guard isOverTCP else { return nil }
    var all: [Int32] = []
    for binding in bindings.values where !(binding.inFlight.isEmpty && binding.failed.isEmpty) {
      guard !binding.eventDescriptors.isEmpty else { return nil }
      all += binding.eventDescriptors
    }
    return all
  }

  /// Pulling agents alive; bounded by `agentsMax`.
  public var agentCount: Int { bindings.count }

  public func shutDown() {
    for binding in bindings.values { binding.fence() }
    bindings = [:]
    known = [:]
  }

  // MARK: Agents

  private func binding(of source: SourceID, at now: LocalInstant) throws(TransferFailure) -> Binding
  {
    if let binding = bindings[source] { return binding }
    guard case .nixl(let pool)? = known[source] else { throw .unknownSource }
    try makeRoom()
    agentSerial += 1
    do {
      let agent = try Agent(
        name: "\(name)-\(agentSerial)", hasProgressThread: false, library: library)
      let peer = try agent.loadPeer(pool.metadata, bytesMax: limits.metadataBytesMax)
      let registration = try agent.register(target.all)
      let local = try DescriptorList.local(
        (0..<target.blockCount).map { ($0 * pool.blockBytes, pool.blockBytes) }, in: registration,
        of: agent)
      let remote = try DescriptorList.remote(
        (0..<pool.slotCount).map {
          (UInt(pool.address) + UInt($0 * pool.blockBytes), pool.blockBytes)
        },
        peer: peer, of: agent)
      try agent.connect(to: peer)
      let binding = Binding(agent: agent, local: local, remote: remote, at: now)
      bindings[source] = binding
      return binding
    } catch {
      throw .rejected("\(error)")
    }
  }

  /// Drops the least recently used idle agent when the table is full.
  private func makeRoom() throws(TransferFailure) {
    guard bindings.count >= limits.agentsMax else { return }
    let idle = bindings.filter { $0.value.inFlight.isEmpty && $0.value.failed.isEmpty }
    guard let oldest = idle.min(by: { $0.value.lastUse < $1.value.lastUse }) else {
      throw .rejected("all \(limits.agentsMax) agents are busy")
    }
    oldest.value.fence()
    bindings[oldest.key] = nil
  }
}

package import Collectives
internal import ContentDigest
internal import Glibc
package import KVConnector
internal import KVLayout
internal import KVTransfer
internal import LocalStore
internal import OSThreads
package import RemoteG2Core
package import RemoteG2Engine
internal import RemoteG2Node
internal import Simulation
internal import Synchronization

/// Sockets of one process's groups have names of their own.
private let groupsMade = Atomic<Int>(0)

/// Rank 0 of a group: the shipped engine and connector over a store ledger that answers at once, with
/// a clock that the test moves.
package final class GroupLeader<Channel: StepChannel>
where Channel.Plan == StepPlan, Channel.Report == RankReport {
  package let control: ToyControl
  /// The own store, served as it is shipped.
  private let node: Node
  private let path: String
  package let connector: RemoteG2Connector
  package let engine: Engine<Channel>
  package let member: GroupMember
  private let chain: KeyChain
  private let rankCount: Int
  private var now = GroupMember.start
  private var results: [RequestID: RequestResult] = [:]
  private var idNext: UInt64 = 1000

  package init(
    _ member: GroupMember, channel: Channel, proof: ProofPolicy = .onFailure,
    limits: Limits = Limits()
  ) throws {
    self.member = member
    let fingerprint = ToyControl.fingerprint(ranks: channel.rankCount)
    control = ToyControl(fingerprint: fingerprint, limits: limits)
    path = "/tmp/rg2-group-\(getpid())-\(groupsMade.wrappingAdd(1, ordering: .relaxed).newValue)"
    guard mkdir(path, 0o700) == 0 else { throw PoolError.cannotListen(path: path, reason: "mkdir") }
    let bytes = member.model.layout.blockBytes
    // Its pool has the name of the peer that it is going to be.
    node = try Node(
      NodeConfiguration(
        name: "own", address: StreamAddress(host: "127.0.0.1", port: 0), members: [],
        memoryBytes: GroupMember.slotCount * bytes * channel.rankCount, directory: path,
        limits: limits, draw: { GroupMember.incarnation }, log: { _ in }))
    let layout = member.model.layout
    chain = KeyChain(
      scope: KeyScope(modelDigest: "tiny", layoutDigest: layout.canonicalText, numerics: "t"),
      tokensPerBlock: layout.tokensPerBlock,
      hash: HashFunction(name: "xxh3") { bytes in
        let digest = ContentDigest.of(bytes)
        return [digest.high, digest.low, digest.high, digest.low].flatMap { word in
          stride(from: UInt64(56), through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
        }
      })
    let settings = try ConnectorSettings(
      rankCount: channel.rankCount, blockBytes: layout.blockBytes,
      tokensPerBlock: layout.tokensPerBlock, targetBlockCount: GroupMember.blockCount,
      limits: limits, proof: proof, pullsByCost: false)
    connector = RemoteG2Connector(control: control, settings: settings)
    engine = try Engine(
      model: member.model, memory: member.memory.region.base, blockCount: GroupMember.blockCount,
      chain: chain, channel: channel, worker: member.worker, connector: connector,
      policy: .recompute, limits: limits, clock: { [clock = member.clock] in clock.now })
    control.peers["P"] = .ready(GroupMember.peer)
    rankCount = channel.rankCount
    connector.expectTransfers(of: GroupFault.blocksPerTransfer, toTake: .zero)
    control.followOwnStore(at: node.configured.socketPath, blockBytes: bytes)
    // The store answers on a thread of its own.
    for _ in 0..<2000 where control.localStore == nil { waitAndRun() }
    run(2)
    announce(GroupMember.peer)
    run(4)
  }

  /// Ends the own store.
  deinit {
    node.stop()
    unlink(node.configured.lockPath)
    rmdir(path)
  }

  private func waitAndRun() {
    OSThread.nap(.milliseconds(1))
    run(1)
  }

  /// Tells every rank where its pool of a peer is, as the control client does after a handshake.
  package func announce(_ source: SourceID) {
    let bytes = member.model.layout.blockBytes
    control.answers.append(
      .announced(
        source,
        (0..<rankCount).map { GroupMember.address(of: $0, blockBytes: bytes) }))
  }

  package func run(_ steps: Int) {
    for _ in 0..<steps {
      now = now + .milliseconds(1)
      member.setClock(now)
      control.now = now
      control.tick()
      _ = engine.step()
      for result in engine.takeFinished() { results[result.id] = result }
    }
  }

  package func submit(
    _ id: UInt64, _ prompt: [Int32], generate: Int = 6, hinted: Bool = true
  ) throws {
    let hint = try Hint(version: 1, store: "P", blocksMax: nil, limits: Limits())
    try engine.submit(
      RequestSpec(
        id: RequestID(id), prompt: prompt, generateMax: generate, hint: hinted ? hint : nil,
        ignoresEnd: true, wantsDigests: true))
  }

  package func finish(_ id: UInt64, within steps: Int = 1000) -> RequestResult? {
    for _ in 0..<steps {
      if let result = results[RequestID(id)] { return result }
      run(1)
    }
    return results[RequestID(id)]
  }

  /// Computes a prompt, saves its blocks on every rank, and makes them a peer's. Then every block of
  /// G1 is overwritten with a stranger's, so that nothing of the prompt is left there by chance.
  ///
  /// - Returns: What the group gives alone.
  package func fillPeer(_ prompt: [Int32]) throws -> RequestResult? {
    for _ in 0..<2000 where !connector.isLocalReady { waitAndRun() }
    try submit(idNext, prompt, hinted: false)
    let golden = finish(idNext)
    for _ in 0..<2000 where connector.open.saving > 0 { waitAndRun() }
    // What was the own store's is a peer's from now on.
    control.followOwnStore(at: nil)
    run(2)
    control.nodes[GroupMember.peer] = node
    engine.dropCache()
    let tokens = GroupMember.blockCount * member.model.layout.tokensPerBlock
    let stranger = (0..<tokens - 6).map { Int32(($0 * 5 + 3) % member.model.vocabularySize) }
    try submit(idNext + 1, stranger, hinted: false)
    guard finish(idNext + 1)?.error == nil else { return nil }
    engine.dropCache()
    idNext += 2
    return golden
  }

  /// Held by the leader though nothing should be. A rank's own transfers are its member's.
  package var leaks: [String] {
    var leaks: [String] = []
    let open = connector.open
    if open.fetches > 0 { leaks.append("\(open.fetches) fetches") }
    if open.quarantined > 0 { leaks.append("\(open.quarantined) quarantined") }
    if open.saving > 0 { leaks.append("\(open.saving) saving") }
    if engine.poolCounts.held > 0 { leaks.append("\(engine.poolCounts.held) blocks held") }
    let leases = node.look(\.storeStats.leases)
    if leases > 0 { leaks.append("\(leases) leases") }
    return leaks
  }
}

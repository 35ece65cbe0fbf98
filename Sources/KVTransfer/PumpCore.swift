internal import ContentDigest
internal import LocalStore
public import RemoteG2Core

/// Everything a transfer pump does, without its thread: orders in, time in, reports out.
///
/// Loads come before saves and checks, and take turns: no fetch waits for the end of another. Each call to
/// ``run(at:)`` does a bounded piece of work, so an order never waits long.
public final class PumpCore {
  /// Blocks staged or hashed by one ``run(at:)``. Reads are bounded by `transfersPostedMax` instead: those
  /// from a mapping are copied whole when they are posted.
  static let blocksPerRun = 4

  let target: BlockRegion
  let local: MappedTransport
  private let peers: any Transport
  private let rank: Int
  let limits: Limits
  private var transferBlocksMax: Int
  private let transferBlocksDefault: Int?
  private var loads: [FetchID: PumpLoad] = [:]
  /// Fetches in the order of their turns: whoever posts goes to the end.
  private var order: [FetchID] = []
  /// Blocks to be staged, with when they were ordered.
  var saves: [(save: BlockSave, since: LocalInstant)] = []
  /// By own store: the slots of this rank's staging memory that may be written.
  var stagingFree: [Incarnation: [UInt32]] = [:]
  private var changed: Set<FetchID> = []
  var report = PumpReport()
  var counts = RankCounts()
  private var lastRun: LocalInstant?
  private var postedMax: Int
  /// What a test or a demonstration has fastened to it; nil where it serves.
  private let rig: (any PumpRig)?

  /// - Parameters:
  ///   - target: This rank's G1.
  ///   - peers: Reads peers' pools; the local store's is always copied from its mapping.
  ///   - transferBlocksMax: Blocks that one transfer carries, where no rig says otherwise; nil: as many as
  ///     the limits say. Never more bytes than the limits let it carry.
  ///   - rig: Nil where nothing but the limits holds the pump.
  public init(
    target: BlockRegion, peers: any Transport, rank: Int, limits: Limits,
    transferBlocksMax: Int? = nil, rig: (any PumpRig)? = nil
  ) {
    self.target = target
    self.peers = peers
    self.rank = rank
    self.limits = limits
    self.rig = rig
    postedMax = limits.transfersPostedMax
    local = MappedTransport(target: target)
    transferBlocksDefault = transferBlocksMax
    self.transferBlocksMax = Self.blocks(transferBlocksMax, limits, target)
  }

  /// A pump with a rig between it and its peers' transport.
  public convenience init(
    target: BlockRegion, peers: any Transport, rank: Int, limits: Limits, rigging: PumpRigging?
  ) {
    let made = rigging?.make(peers, target, rank)
    self.init(
      target: target, peers: made?.peers ?? peers, rank: rank, limits: limits, rig: made?.rig)
  }

  /// Blocks of one transfer: as many as are asked for (nil: as the limits say), within its bytes.
  private static func blocks(_ wanted: Int?, _ limits: Limits, _ target: BlockRegion) -> Int {
    max(
      1,
      min(wanted ?? limits.transferBlocksMax, limits.transferBytesMax / target.blockBytes))
  }

  // MARK: Orders

  /// Carries out one order, or notes it for ``run(at:)``. A fetch that is started twice, or forgotten before
  /// it is quiet, traps, and so does `.rank(.attach)`: attaching is an order of the pump's own.
  public func handle(_ order: PumpOrder, at now: LocalInstant) {
    switch order {
    case .attach(let number, let source, let description): attach(number, source, description)
    case .detach(let source):
      if source.isLocal { stagingFree[source.incarnation] = nil }
      transport(for: source).detach(source)
    case .rank(let order): handle(order, at: now)
    }
  }

  private func attach(_ number: UInt64, _ source: SourceID, _ description: SourceDescription) {
    do throws(TransferFailure) {
      try transport(for: source).attach(source, description)
      if source.isLocal {
        let slots = local.link(to: source).map { UInt32(clamping: $0.slotCount) } ?? 0
        stagingFree[source.incarnation] = Array((0..<slots).reversed())
      }
      report.attached[number] = .some(nil)
    } catch {
      report.attached[number] = .some(error)
    }
  }

  private func handle(_ rankOrder: RankOrder, at now: LocalInstant) {
    switch rankOrder {
    case .load(let fetch, let source, let moves, let stall):
      precondition(loads[fetch] == nil, "\(fetch) is started twice")
      loads[fetch] = PumpLoad(
        source: source, moves: moves, blocksPerTransfer: transferBlocksMax, stall: stall)
      order.append(fetch)
      changed.insert(fetch)
    case .stopPosting(let fetch):
      loads[fetch]?.isStopped = true
      changed.insert(fetch)
    case .checkDigests(let fetch, let expected): loads[fetch]?.check = (expected, 0)
    case .forget(let fetch):
      guard let load = loads[fetch] else { return }
      precondition(load.isQuiet, "\(fetch) is forgotten before it is quiet")
      loads[fetch] = nil
      order.removeAll { $0 == fetch }
    case .stage(let blocks): saves += blocks.map { ($0, now) }
    case .sourceDied(let source):
      if source.isLocal { stagingFree[source.incarnation] = nil }
      transport(for: source).fence(source)
    case .rig(let order):
      guard let tuning = rig?.obey(order) else { return }
      postedMax = tuning.postedMax ?? limits.transfersPostedMax
      transferBlocksMax = Self.blocks(
        tuning.transferBlocksMax ?? transferBlocksDefault, limits, target)
    case .attach:
      preconditionFailure("the worker half turns \(rankOrder) into an order of the pump's own")
    }
  }

  private func transport(for source: SourceID) -> any Transport {
    source.isLocal ? local : peers
  }

  // MARK: Work

  /// Posts, polls and does one bounded piece of copying or hashing.
  ///
  /// - Returns: true when something happened, so that the caller comes back at once.
  public func run(at now: LocalInstant) -> Bool {
    var didWork = post(at: now)
    var events: [TransferEvent] = []
    local.poll(at: now, into: &events)
    peers.poll(at: now, into: &events)
    for event in events { absorb(event) }
    // A stall is news though nothing happened.
    if judgeSilence(at: now) || !events.isEmpty { didWork = true }
    if checkSome() || saveSome(at: now) { didWork = true }
    for fetch in changed {
      guard let load = loads[fetch] else { continue }
      report.progress[fetch] = load.progress
      if let errors = loads[fetch]?.takeErrors() { report.loadErrors += errors }
    }
    changed.removeAll(keepingCapacity: true)
    return didWork
  }

  /// Charges every load with the time since the last run: after polling, so that what has landed is not
  /// taken for silence.
  ///
  /// - Returns: Whether a load has just stalled.
  private func judgeSilence(at now: LocalInstant) -> Bool {
    defer { lastRun = now }
    guard let last = lastRun, !loads.isEmpty else { return false }
    let elapsed = now - last
    var hasStalled = false
    for (fetch, load) in loads
    where load.timePassed(elapsed, isLate: elapsed > limits.pumpGapMax, limits, at: now) {
      changed.insert(fetch)
      hasStalled = true
    }
    return hasStalled
  }

  /// One transfer of each fetch in turn, while their sources take more.
  private func post(at now: LocalInstant) -> Bool {
    var didPost = false
    var index = 0
    while index < order.count {
      let fetch = order[index]
      guard let load = loads[fetch], let next = load.nextToPost,
        postedCount(from: load.source)
          < (load.source.isLocal ? limits.transfersPostedMax : postedMax)
      else {
        index += 1
        continue
      }
      post(next, of: fetch, load, at: now)
      didPost = true
      order.remove(at: index)
      order.append(fetch)
      // Whoever could not post before may not be able to now either, but its source may be another.
      index = 0
    }
    return didPost
  }

  private func post(_ next: Int, of fetch: FetchID, _ load: PumpLoad, at now: LocalInstant) {
    let chunk = load.chunks[next]
    let id = TransferID(fetch: fetch, ordinal: next)
    do throws(TransferFailure) {
      try transport(for: load.source).post(
        id, from: load.source, Array(load.moves[chunk.range]), at: now)
      load.posted(next, at: now)
      tell(id, .posted, at: now, blocks: chunk.range.count)
    } catch {
      // Nothing was started, so nothing of this transfer moves.
      load.chunks[next].outcome = .quiet
      load.failure = error
    }
    changed.insert(fetch)
  }

  private func postedCount(from source: SourceID) -> Int {
    loads.values.reduce(0) { $0 + ($1.source == source ? $1.postedCount : 0) }
  }

  private func tell(
    _ transfer: TransferID, _ moment: TransferTrace.Moment, at: LocalInstant, blocks: Int
  ) {
    rig?.saw(
      TransferTrace(
        transfer: transfer, moment: moment, at: at, bytes: blocks * target.blockBytes))
  }

  private func absorb(_ event: TransferEvent) {
    let id = event.transfer
    guard let load = loads[id.fetch] else {
      preconditionFailure("\(id) ended after its fetch was forgotten")
    }
    let ordinal = Int(id.ordinal)
    let chunk = load.chunks[ordinal]
    switch event {
    case .landed(_, let at):
      precondition(chunk.outcome == .posted, "\(id) landed in state \(chunk.outcome)")
      load.chunks[ordinal].outcome = .landed
      load.landed(at: at)
      tell(id, .landed, at: at, blocks: chunk.range.count)
      let bytes = chunk.range.count * target.blockBytes
      counts.bytesMoved += UInt64(bytes)
      if load.isStopped { counts.bytesLate += UInt64(bytes) }
      var moved = report.moved[load.source] ?? .init(bytes: 0, duration: .zero)
      moved.bytes += bytes
      moved.duration += at - chunk.postedAt
      report.moved[load.source] = moved
    case .failed(_, let failure, let at):
      tell(id, .failed, at: at, blocks: chunk.range.count)
      precondition(chunk.outcome == .posted, "\(id) failed in state \(chunk.outcome)")
      load.chunks[ordinal].outcome = .failed
      load.failure = load.failure ?? failure
    case .quiet(_, let at):
      tell(id, .quiet, at: at, blocks: chunk.range.count)
      precondition(chunk.outcome == .failed, "\(id) went quiet in state \(chunk.outcome)")
      load.chunks[ordinal].outcome = .quiet
    }
    changed.insert(id.fetch)
  }

  /// Compares some landed blocks with the grant's digests. Stops at the first that differs.
  private func checkSome() -> Bool {
    for fetch in order {
      guard let load = loads[fetch], var check = load.check else { continue }
      var hasEnded = false
      for _ in 0..<Self.blocksPerRun where !hasEnded {
        guard check.done < check.expected.count, check.done < load.landed else {
          hasEnded = true
          break
        }
        let block = load.moves[check.done].target.index
        let wanted = check.expected[check.done]
        guard wanted.digests.indices.contains(rank), let expected = wanted.digests[rank],
          ContentDigest.of(target.bytes(of: block), key: wanted.key, rank: rank) == expected
        else {
          hasEnded = true
          break
        }
        check.done += 1
      }
      if hasEnded || check.done == check.expected.count {
        load.proved = check.done
        load.check = nil
        changed.insert(fetch)
      } else {
        load.check = check
      }
      return true
    }
    return false
  }

  // MARK: Reports

  public func takeReport() -> PumpReport {
    let taken = report
    report = PumpReport()
    return taken
  }

  public var stats: PumpStats {
    var stats = PumpStats()
    stats.loads = loads.count
    stats.counts = counts
    stats.counts.transfersInFlight = local.inFlightCount + peers.inFlightCount
    stats.counts.rigCount = rig?.count ?? 0
    stats.blocksUnquiet = loads.values.reduce(0) { $0 + $1.unquiet.count }
    stats.savesQueued = saves.count
    return stats
  }

  /// Whether nothing is posted, waits to be posted, or is to be staged or hashed: the pump may sleep until
  /// the next order.
  public var isIdle: Bool {
    saves.isEmpty && peers.inFlightCount == 0 && local.inFlightCount == 0
      && loads.values.allSatisfy { $0.nextToPost == nil && $0.check == nil && $0.isQuiet }
  }

  /// What tells that a poll is worth while, or nil when only polling does.
  public var eventDescriptors: [Int32]? {
    saves.isEmpty && local.inFlightCount == 0 ? peers.eventDescriptors : nil
  }

  public func shutDown() {
    peers.shutDown()
    local.shutDown()
  }
}

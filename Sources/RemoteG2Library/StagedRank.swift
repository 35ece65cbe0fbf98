internal import Glibc
internal import LocalStore
internal import OSThreads
public import RemoteG2Core

/// One rank's worker half for an engine that owns its memory itself: copies blocks in and stages blocks out,
/// on the thread that calls it.
public final class StagedRank {
  private let model: EngineModel
  private let rank: Int
  private let socket: String
  private let pages: EnginePages
  private let limits: Limits
  private var own: OwnPool?
  /// The pool's slots and the staging memory, where a device copies.
  private var mapped: [MappedMemory] = []
  private var ownPool: Incarnation?
  private var attachAt = LocalInstant(nanoseconds: 0)
  private var stagingFree: [UInt32] = []
  private var plan: StagedPlan?
  private var report: StagedReport
  private var errors: [BlockIndex] = []

  public enum Invalid: Error, Equatable, Sendable, CustomStringConvertible {
    case rank(Int, of: Int)
    case pages(Int, block: Int)

    public var description: String {
      switch self {
      case .rank(let rank, let count): "there is no rank \(rank) of \(count)"
      case .pages(let bytes, let block):
        "the pages of a block have \(bytes) bytes, and a block has \(block)"
      }
    }
  }

  public init(
    _ model: EngineModel, rank: Int, socket: String, pages: EnginePages, limits: Limits = Limits()
  ) throws(Invalid) {
    guard (0..<model.rankCount).contains(rank) else {
      throw .rank(rank, of: model.rankCount)
    }
    guard pages.blockBytes == model.blockBytes else {
      throw .pages(pages.blockBytes, block: model.blockBytes)
    }
    self.model = model
    self.rank = rank
    self.socket = socket
    self.pages = pages
    self.limits = limits
    report = StagedReport(step: 0, rank: rank)
  }

  /// Takes a step's plan. Connects to the node where it must, which may take 100 ms, once in a while.
  public func begin(_ plan: StagedPlan) {
    self.plan = plan
    report = StagedReport(step: plan.step, rank: rank)
    attach(plan)
  }

  private func attach(_ plan: StagedPlan) {
    if own != nil, !takeFreed() { letGo() }
    guard let pool = plan.pool, pool != ownPool else { return }
    letGo()
    guard MonotonicClock.now() >= attachAt else { return }
    let hello = LocalHello(
      engine: plan.engine, role: .rank(rank), fingerprint: model.fingerprint,
      stagingSlots: limits.stagingSlotsMax, blockBytes: model.blockBytes)
    own = OwnPool.open(
      socket: socket, store: pool, hello: hello, now: MonotonicClock.now,
      nap: { OSThread.nap($0) })
    // A pool of other blocks is another engine's.
    guard let own, own.mapping.shape.blockBytes == model.blockBytes else {
      letGo()
      attachAt = MonotonicClock.now() + limits.ownRetryMax
      return
    }
    ownPool = pool
    if let device = pages.device {
      let shape = own.mapping.shape
      mapped = [
        MappedMemory(
          device, own.mapping.base, shape.slotCount * shape.blockBytes, isReadOnly: true),
        MappedMemory(
          device, own.link.pointer(to: 0), own.link.slotCount * shape.blockBytes,
          isReadOnly: false),
      ]
    }
    stagingFree = (0..<UInt32(own.link.slotCount)).reversed()
  }

  private func letGo() {
    mapped = []
    own = nil
    ownPool = nil
    stagingFree = []
  }

  /// - Returns: False when the connection has ended.
  private func takeFreed() -> Bool {
    guard let own, let messages = own.link.receive() else { return false }
    for case .freed(let slots) in messages {
      stagingFree += slots.filter { $0 < UInt32(clamping: own.link.slotCount) }
    }
    return true
  }

  /// Copies what the plan loads. A block that is not what it was when it was promised is an error.
  ///
  /// - Returns: The requests whose loads have ended by it.
  public func load() -> [RequestID] {
    guard let plan else { return [] }
    for load in plan.loads {
      let failed: [BlockIndex]
      if let device = pages.device {
        failed = copyAll(load, by: device)
      } else {
        failed = load.moves.filter { !copy($0, of: load.pool) }.map(\.target)
      }
      errors += failed
      report.loaded.append(
        StagedReport.LoadedRequest(request: load.request, isWhole: failed.isEmpty))
    }
    self.plan?.loads = []
    return plan.loads.map(\.request)
  }

  private func copy(_ move: BlockMove, of pool: Incarnation) -> Bool {
    guard let mapping = own?.mapping, ownPool == pool, move.source.index >= 0,
      move.source.index < mapping.shape.slotCount, move.target.index >= 0,
      move.target.index < pages.blockCount
    else { return false }
    return mapping.words.read(move.source, move.generation) {
      pages.copy(move.target, from: mapping.base + move.source.index * model.blockBytes)
    }
  }

  /// Has a device copy all blocks of a load at once.
  ///
  /// - Returns: Those that are not what they were promised to be, before the copy or after it.
  private func copyAll(_ load: StagedLoad, by device: PageDevice) -> [BlockIndex] {
    guard let mapping = own?.mapping, ownPool == load.pool else { return load.moves.map(\.target) }
    let sound = load.moves.filter {
      $0.target.index < pages.blockCount && mapping.words.isReadable($0.source, $0.generation)
    }
    let blocks = sound.map { move in
      (block: move.target, slot: mapping.base + move.source.index * model.blockBytes)
    }
    let isCopied = device.copy(pages.copies(blocks), true)
    let right = Set(
      isCopied ? mapping.words.stillReadable(sound.map { ($0.source, $0.generation) }) : [])
    let whole = Set(sound.indices.filter { right.contains($0) }.map { sound[$0].target })
    return load.moves.map(\.target).filter { !whole.contains($0) }
  }

  /// Stages what the plan orders: the step has computed it, and the engine does not change it meanwhile.
  public func stage() {
    guard let plan, !plan.stages.isEmpty, let own, ownPool == plan.pool, takeFreed() else { return }
    var staged: [(place: Int, block: StagedBlock)] = []
    for (place, order) in plan.stages.enumerated() {
      guard order.block.index < pages.blockCount, let slot = stagingFree.popLast() else { continue }
      staged.append((place, StagedBlock(slot: slot, key: order.key)))
    }
    self.plan?.stages = []
    let blocks = staged.map { staged in
      (block: plan.stages[staged.place].block, slot: own.link.pointer(to: staged.block.slot))
    }
    if let device = pages.device {
      guard device.copy(pages.copies(blocks), false) else {
        stagingFree += staged.map(\.block.slot)
        return
      }
    } else {
      for (block, slot) in blocks { pages.copy(block, to: slot) }
    }
    guard !staged.isEmpty, own.link.send(.staged(staged.map(\.block))) else { return }
    report.staged = staged.map { UInt32($0.place) }
  }

  /// Blocks that could not be loaded, each told once.
  public func takeErrors() -> [BlockIndex] {
    let taken = errors
    errors = []
    return taken
  }

  /// What was done of the step's plan.
  public func takeReport() -> StagedReport {
    let taken = report
    report.loaded = []
    report.staged = []
    return taken
  }
}

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
    stagingFree = (0..<UInt32(own.link.slotCount)).reversed()
  }

  private func letGo() {
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
      var isWhole = true
      for move in load.moves where !copy(move, of: load.pool) {
        errors.append(move.target)
        isWhole = false
      }
      report.loaded.append(StagedReport.LoadedRequest(request: load.request, isWhole: isWhole))
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

  /// Stages what the plan orders: the step has computed it, and the engine does not change it meanwhile.
  public func stage() {
    guard let plan, !plan.stages.isEmpty, let own, ownPool == plan.pool, takeFreed() else { return }
    var staged: [(place: Int, block: StagedBlock)] = []
    for (place, order) in plan.stages.enumerated() {
      guard order.block.index < pages.blockCount, let slot = stagingFree.popLast() else { continue }
      pages.copy(order.block, to: own.link.pointer(to: slot))
      staged.append((place, StagedBlock(slot: slot, key: order.key)))
    }
    self.plan?.stages = []
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

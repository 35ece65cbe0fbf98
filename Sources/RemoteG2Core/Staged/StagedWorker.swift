/// What one rank does of the plans it is given: which pool it is attached to, which of its staging slots are free,
/// what it has to report.
///
/// Pure. Its shell has the engine's pages, the pool's mapping and the connection, copies, and says what became of it.
public struct StagedWorker: Sendable {
  /// A block to copy into a slot of the rank's staging memory.
  public struct Stage: Equatable, Sendable {
    public let block: BlockIndex
    public let slot: UInt32
    fileprivate let place: UInt32
    fileprivate let key: BlockKey
  }

  private let rank: Int
  private let limits: Limits
  private var plan: StagedPlan?
  private var report: StagedReport
  private var isReported = false
  /// Whose plans it carries out.
  private var engine: Incarnation?
  private var errors: [BlockIndex] = []
  private var stagingFree: [UInt32] = []
  private var stagingCount: UInt32 = 0
  private var attachAt = LocalInstant(nanoseconds: 0)
  /// The pool that is attached.
  public private(set) var pool: Incarnation?

  public init(rank: Int, limits: Limits) {
    self.rank = rank
    self.limits = limits
    report = StagedReport(step: 0, engine: Incarnation(high: 0, low: 0), rank: rank)
  }

  // MARK: The pool

  /// Takes a step's plan.
  ///
  /// - Returns: The pool that is to be attached now, and as what. What is attached is let go first.
  public mutating func begin(
    _ plan: StagedPlan, at now: LocalInstant
  ) -> (pool: Incarnation, engine: Incarnation, step: UInt64)? {
    self.plan = plan
    report = StagedReport(step: plan.step, engine: plan.engine, rank: rank)
    isReported = !plan.ordersNothing
    // Its scheduler half is another by now: nothing is kept of what was attached for the one before.
    if engine != plan.engine {
      lost()
      engine = plan.engine
    }
    guard let wanted = plan.pool, wanted != pool else { return nil }
    lost()
    return now >= attachAt ? (wanted, plan.engine, plan.step) : nil
  }

  /// - Parameter stagingSlots: Of the memory that came with it.
  public mutating func attached(_ pool: Incarnation, stagingSlots: Int) {
    self.pool = pool
    stagingCount = UInt32(clamping: stagingSlots)
    stagingFree = (0..<stagingCount).reversed()
  }

  public mutating func attachFailed(at now: LocalInstant) { attachAt = now + limits.ownRetryMax }

  /// The connection has ended; its staging memory is nobody's.
  public mutating func lost() {
    pool = nil
    stagingFree = []
    stagingCount = 0
  }

  /// These slots of the staging memory may be written again.
  public mutating func freed(_ slots: [UInt32]) {
    stagingFree += slots.filter { $0 < stagingCount }
  }

  // MARK: Loading

  /// What the plan loads, each once. A load from another pool than the one that is attached fails.
  public mutating func takeLoads() -> [StagedLoad] {
    guard let loads = plan?.loads else { return [] }
    plan?.loads = []
    return loads
  }

  /// A load's copies are over.
  ///
  /// - Parameter failed: Blocks that are not what they were promised to be.
  public mutating func loaded(_ load: StagedLoad, failed: [BlockIndex]) {
    errors += failed
    report.loaded.append(
      StagedReport.LoadedRequest(request: load.request, isWhole: failed.isEmpty))
  }

  // MARK: Staging

  /// What the plan stages, as much of it as there is room for, each once.
  ///
  /// - Parameter blockCount: Of the engine's memory: what is not in it is staged by nobody.
  public mutating func takeStages(blockCount: Int) -> [Stage] {
    guard let orders = plan?.stages, pool != nil, pool == plan?.pool else { return [] }
    plan?.stages = []
    var stages: [Stage] = []
    for (place, order) in orders.enumerated() where order.block.index < blockCount {
      guard let slot = stagingFree.popLast() else { break }
      stages.append(
        Stage(block: order.block, slot: slot, place: UInt32(place), key: order.key))
    }
    return stages
  }

  /// The copies could not be made: nothing is staged.
  public mutating func dropped(_ stages: [Stage]) { stagingFree += stages.map(\.slot) }

  /// What is to be sent for stages that are copied; ``sent(_:)`` once it is.
  public func message(for stages: [Stage]) -> LocalMessage {
    .staged(stages.map { StagedBlock(slot: $0.slot, key: $0.key, step: report.step) })
  }

  public mutating func sent(_ stages: [Stage]) { report.staged = stages.map(\.place) }

  // MARK: What is told

  /// Blocks that could not be loaded, each told once.
  public mutating func takeErrors() -> [BlockIndex] {
    defer { errors = [] }
    return errors
  }

  /// What was done of the step's plan, told once; nil where it ordered nothing, on any rank.
  public mutating func takeReport() -> StagedReport? {
    guard isReported else { return nil }
    isReported = false
    defer {
      report.loaded = []
      report.staged = []
    }
    return report
  }
}

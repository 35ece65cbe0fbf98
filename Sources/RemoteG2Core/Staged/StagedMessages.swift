/// What an engine that owns its memory itself asks of its ranks in one step: every rank gets the same plan.
public struct StagedPlan: Equatable, Sendable {
  /// Numbered without a gap.
  public var step: UInt64
  /// Of the engine: drawn by its scheduler half.
  public var engine: Incarnation
  /// Whose pool the slots are in, and staging is for; nil while the node is away.
  public var pool: Incarnation?
  public var loads: [StagedLoad] = []
  public var stages: [StageOrder] = []
  /// A plan that orders nothing is not reported.
  public var ordersNothing: Bool { loads.isEmpty && stages.isEmpty }

  public init(step: UInt64, engine: Incarnation, pool: Incarnation?) {
    self.step = step
    self.engine = engine
    self.pool = pool
  }
}

/// Blocks of one request to copy from the node's pool into the engine's memory.
public struct StagedLoad: Equatable, Sendable {
  public var request: RequestID
  /// Whose slots they are.
  public var pool: Incarnation
  public var moves: [BlockMove]

  public init(request: RequestID, pool: Incarnation, moves: [BlockMove]) {
    self.request = request
    self.pool = pool
    self.moves = moves
  }
}

/// One block to copy from the engine's memory into this rank's staging memory, after the step has computed it.
public struct StageOrder: Equatable, Sendable {
  public var block: BlockIndex
  public var key: BlockKey

  public init(block: BlockIndex, key: BlockKey) {
    self.block = block
    self.key = key
  }
}

/// What one rank has done of a plan.
public struct StagedReport: Equatable, Sendable {
  public var step: UInt64
  /// Whose plan it was.
  public var engine: Incarnation
  public var rank: Int
  /// Loads whose copies are over, and whether every block of them is right.
  public var loaded: [LoadedRequest] = []
  /// Of the ordered stages, by place: those that were carried out.
  public var staged: [UInt32] = []

  public init(step: UInt64, engine: Incarnation, rank: Int) {
    self.step = step
    self.engine = engine
    self.rank = rank
  }

  public struct LoadedRequest: Equatable, Sendable {
    public var request: RequestID
    public var isWhole: Bool
    public init(request: RequestID, isWhole: Bool) {
      self.request = request
      self.isWhole = isWhole
    }
  }
}

/// How plans and reports travel between an engine's processes, whatever carries them.
public enum StagedCodec {
  private static let magic: UInt32 = 0x3153_4732
  private static let listMax = 1 << 20

  public static func encode(_ plan: StagedPlan) -> [UInt8] {
    var out = ByteWriter()
    out.integer(magic)
    out.integer(plan.step)
    out.incarnation(plan.engine)
    out.optional(plan.pool) { $0.incarnation($1) }
    out.list(plan.loads) {
      $0.integer($1.request.value)
      $0.incarnation($1.pool)
      $0.list($1.moves) {
        $0.integer($1.target.value)
        $0.integer($1.source.value)
        $0.integer($1.generation)
      }
    }
    out.list(plan.stages) {
      $0.integer($1.block.value)
      $0.key($1.key)
    }
    return out.bytes
  }

  public static func plan(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> StagedPlan {
    var input = ByteReader(bytes)
    try check(&input)
    let (step, engine) = (try input.integer(UInt64.self), try input.incarnation())
    let pool = try input.optional { input throws(WireError) in try input.incarnation() }
    var plan = StagedPlan(step: step, engine: engine, pool: pool)
    plan.loads = try input.list(max: listMax, each: 12) { input throws(WireError) in
      let (request, pool) = (RequestID(try input.integer()), try input.incarnation())
      let moves = try input.list(max: listMax, each: 12) { input throws(WireError) in
        let (target, source) = (try index(&input), try index(&input))
        return BlockMove(
          target: BlockIndex(target), source: SlotIndex(source), generation: try input.integer())
      }
      return StagedLoad(request: request, pool: pool, moves: moves)
    }
    plan.stages = try input.list(max: listMax, each: 20) { input throws(WireError) in
      let block = BlockIndex(try index(&input))
      return StageOrder(block: block, key: try input.key())
    }
    try input.end()
    return plan
  }

  public static func encode(_ report: StagedReport) -> [UInt8] {
    var out = ByteWriter()
    out.integer(magic)
    out.integer(report.step)
    out.incarnation(report.engine)
    out.integer(UInt32(report.rank))
    out.list(report.loaded) {
      $0.integer($1.request.value)
      $0.bool($1.isWhole)
    }
    out.list(report.staged) { $0.integer($1) }
    return out.bytes
  }

  public static func report(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> StagedReport {
    var input = ByteReader(bytes)
    try check(&input)
    let (step, engine) = (try input.integer(UInt64.self), try input.incarnation())
    let rank = Int(try input.integer(UInt32.self))
    guard rank < 64 else { throw .unknown("rank \(rank)") }
    var report = StagedReport(step: step, engine: engine, rank: rank)
    report.loaded = try input.list(max: listMax, each: 9) { input throws(WireError) in
      let request = RequestID(try input.integer())
      return StagedReport.LoadedRequest(request: request, isWhole: try input.bool())
    }
    report.staged = try input.list(max: listMax, each: 4) { input throws(WireError) in
      try input.integer()
    }
    try input.end()
    return report
  }

  private static func check(_ input: inout ByteReader) throws(WireError) {
    let found = try input.integer(UInt32.self)
    guard found == magic else { throw .unknown("first bytes \(hexText(UInt64(found)))") }
  }

  private static func index(_ input: inout ByteReader) throws(WireError) -> Int {
    let value = try input.integer(Int32.self)
    guard value >= 0 else { throw .unknown("block \(value)") }
    return Int(value)
  }
}

internal import Glibc
internal import LocalStore
internal import OSThreads
public import RemoteG2Core

/// One rank's worker half for an engine that owns its memory itself: copies blocks in and stages blocks out,
/// on the thread that calls it. The shell of a ``StagedWorker``.
public final class StagedRank {
  private let model: EngineModel
  private let rank: Int
  private let socket: String
  private let pages: EnginePages
  private let limits: Limits
  private var core: StagedWorker
  private var own: OwnPool?
  /// The pool's slots and the staging memory, where a device copies.
  private var mapped: [MappedMemory] = []
  /// Of pools that were let go, and that the device may still be letting go.
  private var ending: [MappedMemory] = []

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
    core = StagedWorker(rank: rank, limits: limits)
  }

  /// Takes a step's plan. Connects to the node where it must, which may take 100 ms, once in a while.
  public func begin(_ plan: StagedPlan) {
    if own != nil, !takeFreed() { letGo() }
    let wanted = core.begin(plan, at: MonotonicClock.now())
    if core.pool == nil { letGo() }
    if let wanted { attach(wanted.pool, as: wanted.engine, from: wanted.step) }
  }

  private func attach(_ pool: Incarnation, as engine: Incarnation, from step: UInt64) {
    let hello = LocalHello(
      engine: engine, role: .rank(rank), fingerprint: model.fingerprint,
      stagingSlots: limits.stagingSlotsMax, blockBytes: model.blockBytes, step: step)
    own = OwnPool.open(
      socket: socket, store: pool, hello: hello, now: MonotonicClock.now,
      nap: { OSThread.nap($0) })
    // A pool of other blocks is another engine's.
    guard let own, own.mapping.shape.blockBytes == model.blockBytes else {
      letGo()
      core.attachFailed(at: MonotonicClock.now())
      return
    }
    core.attached(pool, stagingSlots: own.link.slotCount)
    guard let device = pages.device else { return }
    let shape = own.mapping.shape
    mapped = [
      MappedMemory(
        device, own.mapping.base, shape.slotCount * shape.blockBytes, isReadOnly: true,
        of: own.mapping),
      MappedMemory(
        device, own.link.pointer(to: 0), own.link.slotCount * shape.blockBytes, isReadOnly: false,
        of: own.link),
    ]
  }

  // The device's own memory may go when this has gone.
  deinit { for memory in mapped + ending { memory.join() } }

  private func letGo() {
    for memory in mapped { memory.end() }
    ending = ending.filter { !$0.hasEnded } + mapped
    mapped = []
    own = nil
    core.lost()
  }

  /// - Returns: False when the connection has ended.
  private func takeFreed() -> Bool {
    guard let own, let messages = own.link.receive() else { return false }
    for case .freed(let slots) in messages { core.freed(slots) }
    return true
  }

  /// Copies what the plan loads. A block that is not what it was when it was promised is an error.
  ///
  /// - Returns: The requests whose loads have ended by it.
  public func load() -> [RequestID] {
    let loads = core.takeLoads()
    for load in loads { core.loaded(load, failed: copy(load)) }
    return loads.map(\.request)
  }

  /// - Returns: The blocks that are not what they were promised to be, before their copy or after it.
  private func copy(_ load: StagedLoad) -> [BlockIndex] {
    guard let mapping = own?.mapping, core.pool == load.pool else {
      return load.moves.map(\.target)
    }
    if let device = pages.device { return copyAll(load, from: mapping, by: device) }
    return load.moves.filter { move in
      move.target.index >= pages.blockCount
        || !mapping.words.read(move.source, move.generation) {
          pages.copy(move.target, from: mapping.base + move.source.index * model.blockBytes)
        }
    }.map(\.target)
  }

  /// Has a device copy all blocks of a load at once.
  private func copyAll(
    _ load: StagedLoad, from mapping: PoolMapping, by device: PageDevice
  ) -> [BlockIndex] {
    let sound = load.moves.filter {
      $0.target.index < pages.blockCount && mapping.words.isReadable($0.source, $0.generation)
    }
    let blocks = sound.map { move in
      (block: move.target, slot: mapping.base + move.source.index * model.blockBytes)
    }
    let isCopied = device.copy(pages.copies(blocks), true)
    let right =
      isCopied ? mapping.words.stillReadable(sound.map { ($0.source, $0.generation) }) : []
    let whole = Set(right.map { sound[$0].target })
    return load.moves.map(\.target).filter { !whole.contains($0) }
  }

  /// Stages what the plan orders: the step has computed it, and the engine does not change it meanwhile.
  public func stage() {
    guard let own, takeFreed() else { return }
    let stages = core.takeStages(blockCount: pages.blockCount)
    guard !stages.isEmpty else { return }
    let blocks = stages.map { (block: $0.block, slot: own.link.pointer(to: $0.slot)) }
    if let device = pages.device {
      guard device.copy(pages.copies(blocks), false) else { return core.dropped(stages) }
    } else {
      for (block, slot) in blocks { pages.copy(block, to: slot) }
    }
    if own.link.send(core.message(for: stages)) { core.sent(stages) }
  }

  /// Blocks that could not be loaded, each told once.
  public func takeErrors() -> [BlockIndex] { core.takeErrors() }

  /// What was done of the step's plan; nil where it ordered nothing, on any rank.
  public func takeReport() -> StagedReport? { core.takeReport() }
}

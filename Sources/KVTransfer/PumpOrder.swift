public import RemoteG2Core

/// What a pump is told to do. Everything else it decides itself.
public enum PumpOrder: Sendable {
  /// Make a source readable. ``PumpReport/attached`` says under this number whether that was possible.
  case attach(UInt64, SourceID, SourceDescription)
  /// Forget a source from which nothing is in flight.
  case detach(SourceID)
  /// An order of the leader's. Never ``RankOrder/attach(_:_:_:)``, which the worker half turns into `attach`.
  case rank(RankOrder)
}

/// What a pump has to tell, gathered since it was last asked.
public struct PumpReport: Equatable, Sendable {
  /// The whole state of each load that has changed.
  public var progress: [FetchID: RankProgress] = [:]
  /// Target blocks of loads that failed or were stopped, each told once.
  public var loadErrors: [BlockIndex] = []
  /// Blocks that were ordered to be saved: now staged, or given up.
  public var stagings: [StagingResult] = []
  /// Own stores for which nothing can be staged, because their connection to this rank has ended.
  public var unlinked: [Incarnation] = []
  /// By source: the bytes that landed, and the summed times of their transfers, which may have overlapped.
  public var moved: [SourceID: RankReport.MovedBytes] = [:]
  /// By the order's number: whether a source could be attached; the reason when not.
  public var attached: [UInt64: TransferFailure?] = [:]
  public var isEmpty: Bool {
    progress.isEmpty && loadErrors.isEmpty && stagings.isEmpty && moved.isEmpty
      && unlinked.isEmpty && attached.isEmpty
  }

  public init() {}

  /// Adds what happened later.
  public mutating func merge(_ later: PumpReport) {
    progress.merge(later.progress) { $1 }
    loadErrors += later.loadErrors
    stagings += later.stagings
    unlinked += later.unlinked.filter { !unlinked.contains($0) }
    moved.merge(later.moved) {
      .init(bytes: $0.bytes + $1.bytes, duration: $0.duration + $1.duration)
    }
    attached.merge(later.attached) { $1 }
  }
}

/// A pump's own account of what it holds. When nothing is in flight and every load has been forgotten, all is
/// zero but the sums in `counts`, which grow for the pump's whole life.
public struct PumpStats: Equatable, Sendable {
  /// Loads that were ordered and not forgotten yet.
  public var loads = 0
  public var counts = RankCounts()
  /// Target blocks whose transfers are posted and not quiet.
  public var blocksUnquiet = 0
  /// Blocks that were ordered to be saved and are neither staged nor given up yet.
  public var savesQueued = 0
  public var isMoving: Bool { loads > 0 || counts.transfersInFlight > 0 || savesQueued > 0 }

  public init() {}
}

/// A pump as its rank's worker half sees it: orders in, news out, nothing waits.
public protocol PumpPort: AnyObject, Sendable {
  /// Returns at once. The pump carries orders out in the order in which they were posted.
  func post(_ order: PumpOrder)
  /// Everything that happened since the last call.
  func takeReport() -> PumpReport
  /// As of the last time that the pump did anything.
  var stats: PumpStats { get }
}

public import RemoteG2Core

/// What a pump is told to do. Everything else it decides itself.
public enum PumpOrder: Sendable {
  /// Reported under its number.
  case attach(UInt64, SourceID, SourceDescription)
  case detach(SourceID)
  case rank(RankOrder)
}

/// What a pump has to tell, gathered since it was last asked.
public struct PumpReport: Equatable, Sendable {
  public var progress: [FetchID: RankProgress] = [:]
  public var loadErrors: [BlockIndex] = []
  public var saved: [SavedBlock] = []
  public var unlinked: [Incarnation] = []
  public var moved: [SourceID: RankReport.MovedBytes] = [:]
  /// By the order's number: whether a source could be attached; the reason when not.
  public var attached: [UInt64: TransferFailure?] = [:]
  public var isEmpty: Bool {
    progress.isEmpty && loadErrors.isEmpty && saved.isEmpty && moved.isEmpty
      && unlinked.isEmpty && attached.isEmpty
  }

  public init() {}

  /// Adds what happened later.
  public mutating func merge(_ later: PumpReport) {
    progress.merge(later.progress) { $1 }
    loadErrors += later.loadErrors
    saved += later.saved
    unlinked += later.unlinked.filter { !unlinked.contains($0) }
    moved.merge(later.moved) {
      .init(bytes: $0.bytes + $1.bytes, duration: $0.duration + $1.duration)
    }
    attached.merge(later.attached) { $1 }
  }
}

/// A pump's own account of what it holds. All zero when nothing is in flight.
public struct PumpStats: Equatable, Sendable {
  public var loads = 0
  public var counts = RankCounts()
  public var blocksUnquiet = 0
  public var savesQueued = 0
  public var isMoving: Bool { loads > 0 || counts.transfersInFlight > 0 || savesQueued > 0 }

  public init() {}
}

/// A pump as its rank's worker half sees it: orders in, news out, nothing waits.
public protocol PumpPort: AnyObject, Sendable {
  func post(_ order: PumpOrder)
  /// Everything that happened since the last call.
  func takeReport() -> PumpReport
  var stats: PumpStats { get }
}

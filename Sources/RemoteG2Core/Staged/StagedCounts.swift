/// What a scheduler half has counted.
public struct StagedCounts: Equatable, Sendable {
  public var asked: UInt64 = 0
  public var ready: UInt64 = 0
  public var none: UInt64 = 0
  /// Questions that were not waited for any longer.
  public var late: UInt64 = 0
  public var loads: UInt64 = 0
  public var loadsFailed: UInt64 = 0
  public var blocksBound: UInt64 = 0
  public var blocksCommitted: UInt64 = 0
  public var stagesDropped: UInt64 = 0
  /// Committed, and not in the pool.
  public var savesLost: UInt64 = 0
}

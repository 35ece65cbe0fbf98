/// The blocks that transfers which were given up may still write, counted by the source they read from.
///
/// A source that may still write too many is not asked for more, and a target that has lost too many of its
/// blocks this way asks nobody, until some of them are quiet.
package struct Quarantine {
  package private(set) var count = 0
  private var bySource: [SourceID: Int] = [:]
  private let countMax: Int
  private let perSourceMax: Int

  /// - Parameter blockCount: Blocks of the target's pool, of which the limits allow a share.
  package init(blockCount: Int, limits: Limits) {
    countMax = Int(Double(blockCount) * limits.quarantineFractionMax)
    perSourceMax = Int(Double(blockCount) * limits.quarantinePerSourceFractionMax)
  }

  package func isFull(for source: SourceID) -> Bool {
    count >= countMax || bySource[source, default: 0] >= perSourceMax
  }

  package mutating func add(_ blocks: Int, of source: SourceID) {
    guard blocks > 0 else { return }
    count += blocks
    bySource[source, default: 0] += blocks
  }

  package mutating func remove(_ blocks: Int, of source: SourceID) {
    count -= blocks
    let left = bySource[source, default: 0] - blocks
    precondition(count >= 0 && left >= 0, "more blocks went quiet than were not")
    bySource[source] = left == 0 ? nil : left
  }
}

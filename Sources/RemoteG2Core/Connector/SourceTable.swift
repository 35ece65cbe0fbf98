/// Which ranks can read which source. A source is asked once all of them can.
///
/// Every order to attach has a number, so that a rank's late answer to an earlier one, before the source
/// was given up and came back, is taken for none.
package struct SourceTable {
  private struct Entry {
    let number: UInt64
    var ranks: Set<Int> = []
    var hasFailed = false
  }

  private let rankCount: Int
  private var entries: [SourceID: Entry] = [:]
  private var numbers: [UInt64: SourceID] = [:]
  private var numberNext: UInt64 = 1

  package init(rankCount: Int) { self.rankCount = rankCount }

  /// - Returns: The number of the order to attach it.
  package mutating func announced(_ source: SourceID) -> UInt64 {
    if let old = entries[source] { numbers[old.number] = nil }
    let number = numberNext
    numberNext += 1
    entries[source] = Entry(number: number)
    numbers[number] = source
    return number
  }

  /// - Returns: The source, when it has just turned out that some rank cannot read it.
  package mutating func reported(_ number: UInt64, _ isAttached: Bool, by rank: Int) -> SourceID? {
    // It died, or was announced again, while the rank opened it.
    guard let source = numbers[number] else { return nil }
    if isAttached {
      entries[source]?.ranks.insert(rank)
      return nil
    }
    defer { entries[source]?.hasFailed = true }
    // The caller hears of a failed announcement once, however many ranks could not attach the source.
    return entries[source]?.hasFailed == true ? nil : source
  }

  /// A rank lost its connection to an own store.
  ///
  /// - Returns: Whether it was attached until now, and has to be announced again.
  package mutating func unlinked(_ source: SourceID) -> Bool {
    guard isAttached(source) else { return false }
    entries[source]?.hasFailed = true
    return true
  }

  package mutating func died(_ source: SourceID) {
    if let old = entries.removeValue(forKey: source) { numbers[old.number] = nil }
  }

  package func isAttached(_ source: SourceID) -> Bool {
    guard let entry = entries[source] else { return false }
    return !entry.hasFailed && entry.ranks.count == rankCount
  }
}

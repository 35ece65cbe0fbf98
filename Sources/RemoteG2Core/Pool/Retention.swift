/// What a pool knows of how its blocks are used, beyond which was used last: which of them goes first.
///
/// A new block is on probation, because most blocks are never used twice; a second use protects it. A block that was
/// pulled is a copy, and the first to go, for as long as some other member announces it; so is one that was computed
/// both here and there. The last copy is a copy no more. What is evicted is remembered
/// for a while, wherever in the fleet it was: when it comes back, it is protected at once, and it shows which of the
/// two kinds went too early, so that probation gets more of the pool, or less.
package struct Retention: Sendable {
  package enum Standing: Equatable, Sendable { case copy, probation, protected }

  private let slotCount: Int
  private let limits: Limits
  /// Of the pool, which blocks on probation have before protected ones go.
  package private(set) var share: Double
  /// What was evicted that nobody has any more, after one use and after more.
  private var young = EvictedKeys()
  private var old = EvictedKeys()
  /// Evictions of the last blocks of their kind, of all members.
  private var evictions: UInt64 = 0
  /// What all members hold together, as far as it is known.
  private var fleetBlocks: Int

  package init(slotCount: Int, limits: Limits) {
    self.slotCount = slotCount
    self.limits = limits
    share = limits.probationShare
    fleetBlocks = slotCount
  }

  package var rememberedCount: Int { young.count + old.count }
  /// How many blocks on probation are spared while protected ones are there.
  package var probationSlots: Int { Int(share * Double(slotCount)) }

  /// - Parameter announced: Keys that other members announce, once for each of them.
  package mutating func noteFleet(announced: Int) { fleetBlocks = slotCount + announced }

  /// Nobody has it any more.
  package mutating func noteEvicted(_ key: BlockKey, wasProtected: Bool) {
    evictions += 1
    let most = min(limits.evictionsRememberedMax, fleetBlocks * limits.evictionsRememberedPerBlock)
    if wasProtected {
      _ = young.remove(key)
      old.insert(key, at: evictions, atMost: most / 2)
    } else {
      _ = old.remove(key)
      young.insert(key, at: evictions, atMost: most)
    }
  }

  /// Somebody has it again, because it was computed.
  ///
  /// - Returns: Whether it was remembered.
  @discardableResult
  package mutating func noteReturned(_ key: BlockKey) -> Bool {
    let step = 1 / Double(max(1, fleetBlocks))
    if old.remove(key) != nil {
      share = max(limits.probationShareMin, share - step)
      return true
    }
    guard let time = young.remove(key) else { return false }
    if evictions - time < UInt64(fleetBlocks) {
      share = min(limits.probationShareMax, share + step)
    }
    return true
  }
}

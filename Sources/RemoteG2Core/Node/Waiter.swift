/// Who waits for what, and what is on its way.
extension NodeCore {
  /// An engine's question that is not answered yet. What is sealed of it so far is pinned.
  struct Waiter: Sendable {
    struct ID: Hashable, Comparable, Sendable {
      let engine: Incarnation
      let serial: UInt64
      static func < (a: Self, b: Self) -> Bool {
        (a.engine.high, a.engine.low, a.serial) < (b.engine.high, b.engine.low, b.serial)
      }
    }
    let wanted: WantedPrefix
    let pool: PoolNumber
    let startedAt: LocalInstant
    /// Then it is answered with what is there.
    let deadline: LocalInstant
    /// Blocks that were lacking when it was asked.
    let missing: Int
    var pinned: [SlotIndex] = []
    /// Members that could not help.
    var tried: Set<PeerName> = []
    /// Members that were busy, and when they may be asked again; and whether others are being sent the same.
    var busy: [PeerName: LocalInstant] = [:]
    var isSpreading = false
    /// When it looks again, where it waits for nobody.
    var looksAgainAt: LocalInstant?
    var waitsFor: StreamID?
    /// How much of it was pinned when it began to wait for that.
    var pinnedBefore = 0
    var isToldPending = false
    var id: ID { ID(engine: wanted.engine, serial: wanted.serial) }
  }

  /// A pull that is under way.
  struct Span: Sendable {
    let pool: PoolNumber
    let member: PeerName
    let keys: [BlockKey]
    /// The key before its first.
    let parent: BlockKey?
    /// Of one block on all ranks.
    let bytesOfBlock: Int
    let startedAt: LocalInstant
    /// Of the next block to arrive.
    var next = 0
    var writing: (slot: SlotIndex, generation: UInt32)?
    var isCancelled = false
  }
}

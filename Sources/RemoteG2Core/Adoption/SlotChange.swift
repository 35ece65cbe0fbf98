/// How much a sealed block is worth, and when it was used last.
package struct SlotUse: Equatable, Sendable {
  package let lastUse: UInt64
  package let standing: Retention.Standing

  package init(lastUse: UInt64, standing: Retention.Standing) {
    self.lastUse = lastUse
    self.standing = standing
  }
}

/// A sealed block, as it is written down beside its pool for whoever comes after this process.
package struct KeptSlot: Equatable, Sendable {
  package let slot: SlotIndex
  package let generation: UInt32
  package let key: BlockKey
  package let parent: BlockKey?
  /// Of each rank's bytes.
  package let digests: [Digest128]
  package let use: SlotUse

  package init(
    slot: SlotIndex, generation: UInt32, key: BlockKey, parent: BlockKey?, digests: [Digest128],
    use: SlotUse
  ) {
    self.slot = slot
    self.generation = generation
    self.key = key
    self.parent = parent
    self.digests = digests
    self.use = use
  }
}

/// What a pool tells its ``SlotTable``, in the order in which it happens.
package enum SlotChange: Equatable, Sendable {
  /// Its bytes may change from now on.
  case begun(SlotIndex, generation: UInt32)
  case sealed(KeptSlot)
  case used(SlotIndex, SlotUse)
  /// Nobody finds it any more.
  case freed(SlotIndex, generation: UInt32)
}

public import RemoteG2Core
internal import Synchronization

/// The generation words of one rank's pool, in pages that readers map. The store alone writes them.
public struct GenerationWords: @unchecked Sendable {
  // @unchecked: an address and a count; every access is atomic.
  private let base: UnsafeMutablePointer<Atomic<UInt64>>
  public let count: Int

  /// - Parameter base: `count` words of 8 bytes, zero at first.
  public init(_ base: UnsafeMutableRawPointer, count: Int) {
    self.base = base.assumingMemoryBound(to: Atomic<UInt64>.self)
    self.count = count
  }

  /// What stands there now.
  package func word(of slot: SlotIndex) -> UInt64 {
    base[slot.index].load(ordering: .acquiring)
  }

  /// Before any byte of the slot may change. Nothing written after this can be seen before it.
  package func beginWriting(_ slot: SlotIndex, _ generation: UInt32) {
    base[slot.index].store(SlotWord.writing(generation), ordering: .sequentiallyConsistent)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }

  /// Whoever reads this sees every byte that was written before.
  package func makeReadable(_ slot: SlotIndex, _ generation: UInt32) {
    base[slot.index].store(SlotWord.readable(generation), ordering: .releasing)
  }

  /// Calls `copy` if the slot holds `generation`, and looks again afterwards.
  ///
  /// - Returns: Whether the slot's bytes were those of `generation` all the while. After false, what was
  ///   copied (if anything was) is worthless.
  public func read(_ slot: SlotIndex, _ generation: UInt32, _ copy: () -> Void) -> Bool {
    let expected = SlotWord.readable(generation)
    guard slot.index >= 0, slot.index < count,
      base[slot.index].load(ordering: .acquiring) == expected
    else { return false }
    copy()
    atomicMemoryFence(ordering: .acquiring)
    return base[slot.index].load(ordering: .relaxed) == expected
  }

  /// Whether a slot holds that generation now. Nothing that is read after this was read before it.
  public func isReadable(_ slot: SlotIndex, _ generation: UInt32) -> Bool {
    slot.index >= 0 && slot.index < count
      && base[slot.index].load(ordering: .acquiring) == SlotWord.readable(generation)
  }

  /// For slots that were all readable before they were copied: the places of those that were all the while.
  public func stillReadable(_ slots: [(slot: SlotIndex, generation: UInt32)]) -> [Int] {
    atomicMemoryFence(ordering: .acquiring)
    return slots.indices.filter {
      base[slots[$0].slot.index].load(ordering: .relaxed) == SlotWord.readable(slots[$0].generation)
    }
  }
}

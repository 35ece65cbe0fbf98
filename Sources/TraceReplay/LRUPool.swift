internal import RemoteG2Core

/// The pool that others are measured by: what was used longest ago makes room. Of one prompt the head counts as used
/// last, because nothing of it can be used without its head.
struct LRUPool {
  private let capacity: Int
  private var lastUse: [BlockKey: UInt64] = [:]
  /// An entry counts while it says when its key was used last.
  private var uses = DeadlineHeap<UInt64, BlockKey>()
  private var useNext: UInt64 = 0

  init(capacity: Int) { self.capacity = capacity }

  /// - Returns: How many leading blocks were there.
  mutating func play(_ keys: [BlockKey]) -> Int {
    let found = keys.prefix { lastUse[$0] != nil }.count
    for key in keys.reversed() {
      if lastUse[key] == nil, lastUse.count >= capacity { evict() }
      lastUse[key] = useNext
      uses.insert(key, due: useNext)
      useNext += 1
    }
    return found
  }

  private mutating func evict() {
    while let entry = uses.popFirst() {
      guard lastUse[entry.value] == entry.deadline else { continue }
      lastUse[entry.value] = nil
      return
    }
  }
}

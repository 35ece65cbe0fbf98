public import RemoteG2Core

/// G1: the engine's blocks, who holds them, and which sealed prefixes they cache.
///
/// A block is free, held (by requests, saves or quarantine), or cached: sealed and held by nobody,
/// in least-recently-used order. Only a sealed block has a name others can find it by.
public struct PrefixPool: Sendable {
  private struct Block: Sendable {
    var holds = 0
    var key: BlockKey?
    /// Of a block that was pulled: its source's digests. They stay with its bytes.
    var digests: [Digest128?]?
    var older: Int32 = -1
    var newer: Int32 = -1
  }

  private var blocks: [Block]
  private var free: [BlockIndex]
  private var index: [BlockKey: BlockIndex] = [:]
  private var oldest: Int32 = -1
  private var newest: Int32 = -1
  public private(set) var cachedCount = 0

  public init(blockCount: Int) {
    precondition(blockCount > 0, "a pool has blocks")
    blocks = Array(repeating: Block(), count: blockCount)
    free = (0..<blockCount).reversed().map { BlockIndex($0) }
  }

  public var blockCount: Int { blocks.count }
  public var freeCount: Int { free.count }
  /// Blocks that someone holds.
  public var heldCount: Int { blocks.count - free.count - cachedCount }
  /// Blocks that could be had at once.
  public var availableCount: Int { free.count + cachedCount }

  /// Takes a block that nobody has, evicting the least recently used cached one if need be.
  public mutating func allocate() -> BlockIndex? {
    if free.isEmpty, oldest >= 0 { evict(BlockIndex(Int(oldest))) }
    guard let block = free.popLast() else { return nil }
    blocks[block.index].holds = 1
    return block
  }

  /// Takes `count` blocks, or none.
  public mutating func allocate(_ count: Int) -> [BlockIndex]? {
    guard availableCount >= count else { return nil }
    return (0..<count).compactMap { _ in allocate() }
  }

  public mutating func hold(_ block: BlockIndex) {
    if blocks[block.index].holds == 0 {
      precondition(blocks[block.index].key != nil, "\(block) is free and cannot be held")
      unlink(block)
    }
    blocks[block.index].holds += 1
  }

  public mutating func release(_ block: BlockIndex) {
    precondition(blocks[block.index].holds > 0, "\(block) is released more often than held")
    blocks[block.index].holds -= 1
    guard blocks[block.index].holds == 0 else { return }
    if blocks[block.index].key != nil { link(block) } else { free.append(block) }
  }

  /// Gives a final block its name.
  ///
  /// - Returns: false when another block has the name already: this one stays private until it is
  ///   released. Two requests may compute the same prefix at once; the first to seal wins.
  public mutating func seal(
    _ block: BlockIndex, as key: BlockKey, digests: [Digest128?]? = nil
  ) -> Bool {
    precondition(blocks[block.index].holds > 0, "\(block) is sealed by nobody")
    precondition(blocks[block.index].key == nil, "\(block) is sealed twice")
    guard index[key] == nil else { return false }
    index[key] = block
    blocks[block.index].key = key
    blocks[block.index].digests = digests
    return true
  }

  /// How many hold a block.
  package func holds(of block: BlockIndex) -> Int { blocks[block.index].holds }

  /// The block that has this name.
  public func block(of key: BlockKey) -> BlockIndex? { index[key] }
  /// The digests that a pulled block came with.
  public func digests(of block: BlockIndex) -> [Digest128?]? { blocks[block.index].digests }

  public func isSealed(_ block: BlockIndex) -> Bool { blocks[block.index].key != nil }

  /// The longest prefix of `keys` that is here, at most `most` blocks. Nothing is held by asking.
  public func match(_ keys: [BlockKey], most: Int) -> [BlockIndex] {
    var found: [BlockIndex] = []
    for key in keys.prefix(most) {
      guard let block = index[key] else { break }
      found.append(block)
    }
    return found
  }

  /// Forgets every cached prefix that nobody holds.
  public mutating func dropCached() {
    while oldest >= 0 { evict(BlockIndex(Int(oldest))) }
  }

  private mutating func evict(_ block: BlockIndex) {
    unlink(block)
    if let key = blocks[block.index].key { index[key] = nil }
    blocks[block.index].key = nil
    blocks[block.index].digests = nil
    free.append(block)
  }

  private mutating func link(_ block: BlockIndex) {
    blocks[block.index].older = newest
    blocks[block.index].newer = -1
    if newest >= 0 { blocks[Int(newest)].newer = block.value } else { oldest = block.value }
    newest = block.value
    cachedCount += 1
  }

  private mutating func unlink(_ block: BlockIndex) {
    let (older, newer) = (blocks[block.index].older, blocks[block.index].newer)
    if older >= 0 { blocks[Int(older)].newer = newer } else { oldest = newer }
    if newer >= 0 { blocks[Int(newer)].older = older } else { newest = older }
    blocks[block.index].older = -1
    blocks[block.index].newer = -1
    cachedCount -= 1
  }
}

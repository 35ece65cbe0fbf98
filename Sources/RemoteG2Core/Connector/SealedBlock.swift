/// A block whose content is final, and its name.
public struct SealedBlock: Equatable, Sendable {
  public let block: BlockIndex
  public let key: BlockKey
  /// The name of the block before it in its chain; nil for the first.
  public let parent: BlockKey?
  /// The source's digests, for a block that was pulled. Never computed again from landed bytes.
  public let digests: [Digest128?]?

  public init(
    block: BlockIndex, key: BlockKey, parent: BlockKey? = nil, digests: [Digest128?]? = nil
  ) {
    self.block = block
    self.key = key
    self.parent = parent
    self.digests = digests
  }
}

/// A block that the own store should have and lacked when it was last used.
public struct UnsavedBlock: Equatable, Sendable {
  public let key: BlockKey
  public let parent: BlockKey?

  public init(key: BlockKey, parent: BlockKey?) {
    self.key = key
    self.parent = parent
  }
}

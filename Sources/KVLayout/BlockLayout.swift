/// The number type of one KV element.
public enum ElementType: String, Sendable, Equatable, CaseIterable {
  case float32
  case float16

  /// Bytes of one element.
  public var sizeBytes: Int {
    switch self {
    case .float32: 4
    case .float16: 2
    }
  }
}

/// Why a layout, or a use of one, is refused.
public enum LayoutError: Error, Equatable, Sendable {
  /// A dimension is zero, negative or so large that a block would exceed ``BlockLayout/blockBytesMax``.
  case dimension(String, value: Int)
  /// A block index outside the pool.
  case blockOutOfRange(Int, blockCount: Int)
  /// The model's heads cannot be divided evenly.
  case indivisible(kvHeads: Int, ranks: Int)
}

/// The geometry of one block on one tensor-parallel rank.
///
/// A pool is `[block][layer][K|V][kvHead][token][headSize]`, row-major, so one block is contiguous
/// and one token of one head is a run of `headSize` elements.
public struct BlockLayout: Equatable, Hashable, Sendable {
  /// A block larger than this is a configuration mistake, not a cache.
  public static let blockBytesMax = 1 << 30

  public let element: ElementType
  public let layerCount: Int
  /// KV heads held by this rank, not by the whole model.
  public let kvHeadsPerRank: Int
  public let headSize: Int
  public let tokensPerBlock: Int
  public let rankCount: Int

  /// - Throws: ``LayoutError/dimension(_:value:)`` naming the first bad dimension.
  public init(
    element: ElementType = .float32, layerCount: Int, kvHeadsPerRank: Int, headSize: Int,
    tokensPerBlock: Int = 16, rankCount: Int = 1
  ) throws(LayoutError) {
    for (name, value) in [
      ("layerCount", layerCount), ("kvHeadsPerRank", kvHeadsPerRank), ("headSize", headSize),
      ("tokensPerBlock", tokensPerBlock), ("rankCount", rankCount),
    ] where value < 1 || value > 1 << 20 {
      throw .dimension(name, value: value)
    }
    self.element = element
    self.layerCount = layerCount
    self.kvHeadsPerRank = kvHeadsPerRank
    self.headSize = headSize
    self.tokensPerBlock = tokensPerBlock
    self.rankCount = rankCount
    var bytes = element.sizeBytes
    for factor in [layerCount, 2, kvHeadsPerRank, tokensPerBlock, headSize] {
      let (product, overflow) = bytes.multipliedReportingOverflow(by: factor)
      if overflow || product > Self.blockBytesMax { throw .dimension("blockBytes", value: product) }
      bytes = product
    }
  }

  /// Bytes of one head's rows of one layer's K (or V) in one block.
  public var headBytes: Int { tokensPerBlock * headSize * element.sizeBytes }
  /// Bytes of one layer's K (or V) in one block.
  public var planeBytes: Int { kvHeadsPerRank * headBytes }
  /// Bytes of one whole block on this rank.
  public var blockBytes: Int { layerCount * 2 * planeBytes }

  /// What two peers compare: every field, in a fixed order, each with its name.
  public var canonicalText: String {
    "layout/1 element=\(element.rawValue) layers=\(layerCount) kvHeadsPerRank=\(kvHeadsPerRank)"
      + " headSize=\(headSize) tokensPerBlock=\(tokensPerBlock) ranks=\(rankCount)"
      + " order=block,layer,kv,head,token,dim"
  }
}

internal import Glibc
internal import RemoteG2Core

/// Where an engine has its blocks: in each of its layers one page a block, at equal distances.
public struct EnginePages: @unchecked Sendable {
  // @unchecked: addresses and sizes; what is there is the engine's until it is closed.
  public struct Layer {
    public let base: UnsafeMutableRawPointer
    /// From one block's page to the next one's.
    public let stride: Int
    /// Of a page.
    public let bytes: Int

    public init(base: UnsafeMutableRawPointer, stride: Int, bytes: Int) {
      self.base = base
      self.stride = stride
      self.bytes = bytes
    }
  }

  public let layers: [Layer]
  /// What copies them; nil: they are in host memory.
  public let device: PageDevice?
  public let blockCount: Int
  /// Of one block, over all layers.
  public let blockBytes: Int

  /// - Returns: Nil where pages would overlap, or there are none.
  public init?(layers: [Layer], blockCount: Int, device: PageDevice? = nil) {
    guard !layers.isEmpty, blockCount > 0,
      layers.allSatisfy({ $0.bytes > 0 && $0.stride >= $0.bytes })
    else { return nil }
    self.layers = layers
    self.device = device
    self.blockCount = blockCount
    blockBytes = layers.reduce(0) { $0 + $1.bytes }
  }

  func copy(_ block: BlockIndex, from slot: UnsafeRawPointer) {
    var offset = 0
    for layer in layers {
      memcpy(layer.base + block.index * layer.stride, slot + offset, layer.bytes)
      offset += layer.bytes
    }
  }

  func copy(_ block: BlockIndex, to slot: UnsafeMutableRawPointer) {
    var offset = 0
    for layer in layers {
      memcpy(slot + offset, layer.base + block.index * layer.stride, layer.bytes)
      offset += layer.bytes
    }
  }

  /// What a device is to copy for these blocks: neighbours in both memories go together.
  func copies(_ blocks: [(block: BlockIndex, slot: UnsafeMutableRawPointer)]) -> [PageCopy] {
    var copies: [PageCopy] = []
    var first = 0
    while first < blocks.count {
      var end = first + 1
      while end < blocks.count, blocks[end].block.index == blocks[end - 1].block.index + 1,
        blocks[end].slot == blocks[end - 1].slot + blockBytes
      { end += 1 }
      var offset = 0
      for layer in layers {
        copies.append(
          PageCopy(
            device: layer.base + blocks[first].block.index * layer.stride,
            host: blocks[first].slot + offset, bytes: layer.bytes, rows: end - first,
            deviceStride: layer.stride, hostStride: blockBytes))
        offset += layer.bytes
      }
      first = end
    }
    return copies
  }
}

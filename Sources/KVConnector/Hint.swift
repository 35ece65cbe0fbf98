public import RemoteG2Core

/// What a router attaches to a request: which store has its prefix. Advisory; it may be wrong, and
/// it chooses a peer and a span, nothing else.
public struct Hint: Equatable, Sendable {
  public static let version = 1

  /// The name of a known store.
  public let store: PeerName
  /// At most this many blocks are asked of the store, counted from the end of the request's local prefix and
  /// not from the start of the prompt; nil: as many as the request can use.
  public let blocksMax: Int?

  /// - Throws: ``HintError`` for anything a router could get wrong.
  public init(
    version: Int, store: String, blocksMax: Int?, limits: Limits
  ) throws(HintError) {
    guard version == Self.version else { throw .version(version) }
    guard !store.isEmpty, store.utf8.count <= limits.hintBytesMax else {
      throw .store(bytes: store.utf8.count)
    }
    if let blocksMax, blocksMax < 1 || blocksMax > limits.blocksPerFetchMax {
      throw .blocks(blocksMax, max: limits.blocksPerFetchMax)
    }
    self.store = PeerName(store)
    self.blocksMax = blocksMax
  }
}

/// Why a hint is dropped. The request is served without it.
public enum HintError: Error, Equatable, Sendable, CustomStringConvertible {
  case version(Int)
  case store(bytes: Int)
  case blocks(Int, max: Int)
  case malformed(String)

  public var description: String {
    switch self {
    case .version(let version): "the hint has version \(version); version \(Hint.version) is read"
    case .store(let bytes): "the hint names a store of \(bytes) bytes"
    case .blocks(let count, let most): "the hint spans \(count) blocks; 1 to \(most) are possible"
    case .malformed(let what): "the hint is malformed: \(what)"
    }
  }
}

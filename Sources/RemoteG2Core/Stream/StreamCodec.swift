/// How stream messages travel: the length of what follows, a tag, the fields. A block's bytes follow its
/// frame and are no part of it.
public enum StreamCodec {
  /// Of a frame, without its length.
  public static let bytesMax = 64 << 10
  /// Of the length that precedes a frame.
  public static let lengthBytes = 4
  public static let keysPerPage = 2048
  private static let ranksMax = 64
  private static let poolsMax = 64
  private static let othersMax = 64
  /// Of one block on one rank; what no pool has is refused before anything is allocated for it.
  private static let blockBytesMax = 1 << 30

  /// The frame, with its length before it.
  public static func encode(_ message: StreamMessage) -> [UInt8] {
    var out = ByteWriter()
    write(message, to: &out)
    precondition(out.bytes.count <= bytesMax, "a frame of \(out.bytes.count) bytes")
    var frame = ByteWriter(capacity: out.bytes.count + lengthBytes)
    frame.raw(out.bytes)
    return frame.bytes
  }

  private static func write(_ message: StreamMessage, to out: inout ByteWriter) {
    switch message {
    case .hello(let hello):
      out.integer(UInt8(1))
      out.integer(hello.version)
      out.incarnation(hello.node)
      out.text(hello.name.text)
      out.optional(hello.terms) { write($1, to: &$0) }
    case .ask(let keys, let isLast):
      out.integer(UInt8(2))
      out.bool(isLast)
      out.list(keys) { $0.key($1) }
    case .watch: out.integer(UInt8(3))
    case .welcome(let welcome):
      out.integer(UInt8(65))
      out.incarnation(welcome.node)
      out.text(welcome.name.text)
    case .refused(let reason):
      out.integer(UInt8(66))
      out.text(String(reason.prefix(1000)))
    case .block(let position, let digests):
      out.integer(UInt8(67))
      out.integer(UInt32(position))
      out.list(digests) { $0.digest($1) }
    case .end(let end):
      out.integer(UInt8(68))
      out.integer(end.rawValue)
    case .snapshot(let keys, let isLast):
      out.integer(UInt8(69))
      out.bool(isLast)
      out.list(keys) { $0.key($1) }
    case .changes(let number, let changes):
      out.integer(UInt8(70))
      out.integer(number)
      out.list(changes) {
        $0.key($1.key)
        $0.bool($1.isSealed)
        $0.bool($1.wasProtected)
      }
    case .pools(let pools):
      out.integer(UInt8(71))
      out.list(pools.prefix(poolsMax)) { write($1, to: &$0) }
    case .beat: out.integer(UInt8(72))
    case .busy(let others):
      out.integer(UInt8(73))
      out.list(others.prefix(othersMax)) { $0.text($1.text) }
    }
  }

  private static func write(_ terms: PoolTerms, to out: inout ByteWriter) {
    out.fingerprint(terms.fingerprint)
    out.integer(Int64(terms.blockBytes))
  }

  // MARK: Reading

  /// - Returns: The length of the frame that it precedes.
  public static func length(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> Int {
    var input = ByteReader(bytes)
    let length = Int(try input.integer(UInt32.self))
    guard length <= bytesMax else {
      // As an alert or a handshake of TLS begins.
      guard ![0x0315, 0x0316].contains(length & 0xFFFF) else {
        throw .unknown("frame: it speaks TLS; start all nodes with --tls-certificate, or none")
      }
      throw .tooMany(length, max: bytesMax)
    }
    guard length > 0 else { throw .truncated }
    return length
  }

  /// - Parameter bytes: A frame, without its length.
  /// - Throws: For anything but exactly one whole message of this version.
  public static func decode(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> StreamMessage {
    var input = ByteReader(bytes)
    let message = try read(&input)
    try input.end()
    return message
  }

  private static func read(_ input: inout ByteReader) throws(WireError) -> StreamMessage {
    switch try input.integer(UInt8.self) {
    case 1:
      let (version, node) = (try input.integer(UInt32.self), try input.incarnation())
      let name = try name(&input)
      return .hello(
        StreamHello(
          version: version, node: node, name: name, terms: try input.optional(terms)))
    case 2:
      let isLast = try input.bool()
      return .ask(keys: try keys(&input), isLast: isLast)
    case 3: return .watch
    case 65:
      let node = try input.incarnation()
      return .welcome(StreamWelcome(node: node, name: try name(&input)))
    case 66: return .refused(try input.text())
    case 67:
      let position = Int(try input.integer(UInt32.self))
      let digests = try input.list(max: ranksMax, each: 16) { input throws(WireError) in
        try input.digest()
      }
      return .block(position: position, digests: digests)
    case 68:
      let raw = try input.integer(UInt8.self)
      guard let end = StreamEnd(rawValue: raw) else { throw .unknown("end \(raw)") }
      return .end(end)
    case 69:
      let isLast = try input.bool()
      return .snapshot(try keys(&input), isLast: isLast)
    case 70:
      let number = try input.integer(UInt64.self)
      return .changes(
        number: number,
        try input.list(max: bytesMax / 18, each: 18) { input throws(WireError) in
          let (key, isSealed) = (try input.key(), try input.bool())
          return FeedChange(key: key, isSealed: isSealed, wasProtected: try input.bool())
        })
    case 71: return .pools(try input.list(max: poolsMax, each: 40, terms))
    case 72: return .beat
    case 73: return .busy(others: try input.list(max: othersMax, each: 4, name))
    case let tag: throw .unknown("message \(tag)")
    }
  }

  private static func name(_ input: inout ByteReader) throws(WireError) -> PeerName {
    PeerName(try input.text(max: 64))
  }

  private static func keys(_ input: inout ByteReader) throws(WireError) -> [BlockKey] {
    try input.list(max: bytesMax / 16, each: 16) { input throws(WireError) in try input.key() }
  }

  private static func terms(_ input: inout ByteReader) throws(WireError) -> PoolTerms {
    let fingerprint = try input.fingerprint()
    let bytes = try input.integer(Int64.self)
    guard bytes > 0, bytes <= blockBytesMax else { throw .unknown("block of \(bytes) bytes") }
    guard fingerprint.rankCount >= 1, fingerprint.rankCount <= ranksMax else {
      throw .unknown("rank count \(fingerprint.rankCount)")
    }
    return PoolTerms(fingerprint: fingerprint, blockBytes: Int(bytes))
  }
}

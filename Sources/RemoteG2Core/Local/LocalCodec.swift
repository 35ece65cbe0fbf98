/// How local messages travel: one packet each, a tag and then the fields.
public enum LocalCodec {
  /// Of one packet.
  public static let bytesMax = 64 << 10
  /// Keys that fit a packet, with room for the rest of the message.
  public static let keysPerPage = 2048
  /// Blocks of that many ranks that fit a packet, whether found or committed: a block is at most its key,
  /// its parent, and a digest of each rank, each with a byte that says whether it is there.
  public static func blocksPerPage(ranks: Int) -> Int {
    max(1, (bytesMax - 64) / (48 + 17 * ranks))
  }
  private static let ranksMax = 64
  /// Of a report.
  public static let reportBytesPerPage = 32 << 10

  public static func encode(_ message: LocalMessage) -> [UInt8] {
    var out = ByteWriter()
    switch message {
    case .hello(let hello):
      out.integer(UInt8(1))
      write(hello, to: &out)
    case .lookup(let lease, let keys, let isLast):
      out.integer(UInt8(2))
      out.integer(lease)
      out.bool(isLast)
      out.list(keys) { $0.key($1) }
    case .release(let lease):
      out.integer(UInt8(3))
      out.integer(lease)
    case .offer(let batch, let keys):
      out.integer(UInt8(4))
      out.integer(batch)
      out.list(keys) { $0.key($1) }
    case .staged(let blocks):
      out.integer(UInt8(5))
      out.list(blocks) {
        $0.integer($1.slot)
        $0.key($1.key)
        $0.integer($1.step)
      }
    case .commit(let blocks):
      out.integer(UInt8(6))
      out.list(blocks) {
        $0.key($1.key)
        $0.optional($1.parent) { $0.key($1) }
        $0.optional($1.digests) { $0.list($1) { $0.digest($1) } }
        $0.integer($1.step)
      }
    case .withdraw(let keys):
      out.integer(UInt8(7))
      out.list(keys) { $0.key($1) }
    case .want(let lease, let keys, let isLast, let pace):
      out.integer(UInt8(11))
      out.integer(lease)
      out.bool(isLast)
      out.duration(pace)
      out.list(keys) { $0.key($1) }
    case .evict(let id): number(8, id, &out)
    case .stats(let id): number(9, id, &out)
    case .ping(let id): number(10, id, &out)
    case .report(let id): number(12, id, &out)
    case .settled(let step): number(13, step, &out)
    case .welcome(let welcome):
      out.integer(UInt8(65))
      out.incarnation(welcome.store)
      for value in [
        welcome.slotCount, welcome.blockBytes, welcome.rankCount, welcome.stagingSlots,
      ] { out.integer(Int64(value)) }
    case .refused(let reason):
      out.integer(UInt8(66))
      out.text(String(reason.prefix(1000)))
    case .found(let lease, let blocks, let isLast):
      out.integer(UInt8(67))
      out.integer(lease)
      out.bool(isLast)
      out.list(blocks) {
        $0.integer($1.slot.value)
        $0.integer($1.generation)
        $0.list($1.digests) { $0.optional($1) { $0.digest($1) } }
      }
    case .notFound(let lease, let refusal):
      out.integer(UInt8(68))
      out.integer(lease)
      out.integer(UInt8(Refusal.allCases.firstIndex(of: refusal) ?? 0))
    case .pending(let lease): number(75, lease, &out)
    case .wanted(let batch, let places):
      out.integer(UInt8(69))
      out.integer(batch)
      out.list(places) { $0.integer($1) }
    case .freed(let slots):
      out.integer(UInt8(70))
      out.list(slots) { $0.integer($1) }
    case .saved(let outcomes):
      out.integer(UInt8(71))
      out.list(outcomes) {
        $0.key($1.key)
        $0.integer($1.kind.rawValue)
      }
    case .evicted(let id, let count):
      number(72, id, &out)
      out.integer(Int64(count))
    case .statsAnswer(let id, let stats):
      number(73, id, &out)
      write(stats, to: &out)
    case .pong(let id): number(74, id, &out)
    case .reported(let id, let page, let isLast):
      number(76, id, &out)
      out.bool(isLast)
      out.text(page)
    }
    return out.bytes
  }

  private static func number(_ tag: UInt8, _ id: UInt64, _ out: inout ByteWriter) {
    out.integer(tag)
    out.integer(id)
  }

  private static func write(_ hello: LocalHello, to out: inout ByteWriter) {
    out.integer(hello.version)
    out.incarnation(hello.engine)
    switch hello.role {
    case .leader: out.integer(Int32(-1))
    case .rank(let rank): out.integer(Int32(rank))
    }
    out.fingerprint(hello.fingerprint)
    out.integer(Int64(hello.stagingSlots))
    out.integer(Int64(hello.blockBytes))
    out.integer(hello.step)
  }

  private static func write(_ stats: StoreStats, to out: inout ByteWriter) {
    for value in [
      stats.slots, stats.free, stats.writing, stats.sealed, stats.pinned, stats.leases,
      stats.staged,
    ] { out.integer(Int64(value)) }
    for value in [stats.granted, stats.released, stats.expired, stats.evicted] {
      out.integer(value)
    }
  }

  // MARK: Reading

  /// - Throws: For anything but exactly one whole message of this version.
  public static func decode(_ bytes: UnsafeRawBufferPointer) throws(WireError) -> LocalMessage {
    var input = ByteReader(bytes)
    let message = try read(&input)
    try input.end()
    return message
  }

  private static func read(_ input: inout ByteReader) throws(WireError) -> LocalMessage {
    switch try input.integer(UInt8.self) {
    case 1: return .hello(try hello(&input))
    case 2:
      let (lease, isLast) = (try input.integer(UInt64.self), try input.bool())
      return .lookup(lease: lease, keys: try keys(&input), isLast: isLast)
    case 3: return .release(lease: try input.integer())
    case 4: return .offer(batch: try input.integer(), keys: try keys(&input))
    case 5:
      return .staged(
        try input.list(max: bytesMax / 28, each: 28) { input throws(WireError) in
          StagedBlock(slot: try input.integer(), key: try input.key(), step: try input.integer())
        })
    case 6: return .commit(try committed(&input))
    case 7: return .withdraw(try keys(&input))
    case 8: return .evict(try input.integer())
    case 9: return .stats(try input.integer())
    case 10: return .ping(try input.integer())
    case 11:
      let (lease, isLast) = (try input.integer(UInt64.self), try input.bool())
      let pace = try input.duration()
      guard pace >= .zero else { throw .unknown("pace \(pace)") }
      return .want(lease: lease, keys: try keys(&input), isLast: isLast, pace: pace)
    case 12: return .report(try input.integer())
    case 13: return .settled(step: try input.integer())
    case 65:
      let store = try input.incarnation()
      return .welcome(
        LocalWelcome(
          store: store, slotCount: try size(&input), blockBytes: try size(&input),
          rankCount: try size(&input), stagingSlots: try size(&input)))
    case 66: return .refused(try input.text())
    case 67: return try found(&input)
    case 68:
      let (lease, index) = (try input.integer(UInt64.self), Int(try input.integer(UInt8.self)))
      guard Refusal.allCases.indices.contains(index) else { throw .unknown("refusal \(index)") }
      return .notFound(lease: lease, Refusal.allCases[index])
    case 69: return .wanted(batch: try input.integer(), try numbers(&input))
    case 70: return .freed(try numbers(&input))
    case 71:
      return .saved(
        try input.list(max: bytesMax / 17, each: 17) { input throws(WireError) in
          let (key, raw) = (try input.key(), try input.integer(UInt8.self))
          guard let kind = SaveOutcome.Kind(rawValue: raw) else { throw .unknown("outcome \(raw)") }
          return SaveOutcome(key: key, kind: kind)
        })
    case 72: return .evicted(try input.integer(), count: try size(&input))
    case 73: return .statsAnswer(try input.integer(), try stats(&input))
    case 74: return .pong(try input.integer())
    case 76:
      let (id, isLast) = (try input.integer(UInt64.self), try input.bool())
      return .reported(id, try input.text(max: reportBytesPerPage), isLast: isLast)
    case 75: return .pending(lease: try input.integer())
    case let tag: throw .unknown("message \(tag)")
    }
  }

  private static func keys(_ input: inout ByteReader) throws(WireError) -> [BlockKey] {
    try input.list(max: bytesMax / 16, each: 16) { input throws(WireError) in try input.key() }
  }

  private static func numbers(_ input: inout ByteReader) throws(WireError) -> [UInt32] {
    try input.list(max: bytesMax / 4, each: 4) { input throws(WireError) in try input.integer() }
  }

  /// A size that fits this machine and is not negative.
  private static func size(_ input: inout ByteReader) throws(WireError) -> Int {
    let value = try input.integer(Int64.self)
    guard value >= 0, value <= 1 << 48 else { throw .unknown("size \(value)") }
    return Int(value)
  }

  private static func hello(_ input: inout ByteReader) throws(WireError) -> LocalHello {
    let (version, engine) = (try input.integer(UInt32.self), try input.incarnation())
    let rank = Int(try input.integer(Int32.self))
    guard rank >= -1, rank < ranksMax else { throw .unknown("rank \(rank)") }
    let fingerprint = try input.fingerprint()
    return LocalHello(
      version: version, engine: engine, role: rank == -1 ? .leader : .rank(rank),
      fingerprint: fingerprint, stagingSlots: try size(&input), blockBytes: try size(&input),
      step: try input.integer())
  }

  private static func digests(_ input: inout ByteReader) throws(WireError) -> [Digest128] {
    try input.list(max: ranksMax, each: 16) { input throws(WireError) in try input.digest() }
  }

  private static func committed(
    _ input: inout ByteReader
  ) throws(WireError) -> [CommittedBlock] {
    try input.list(max: bytesMax / 26, each: 26) { input throws(WireError) in
      let key = try input.key()
      let parent = try input.optional { input throws(WireError) in try input.key() }
      return CommittedBlock(
        key: key, parent: parent, digests: try input.optional(digests), step: try input.integer())
    }
  }

  private static func found(_ input: inout ByteReader) throws(WireError) -> LocalMessage {
    let (lease, isLast) = (try input.integer(UInt64.self), try input.bool())
    let blocks = try input.list(max: bytesMax / 12, each: 12) { input throws(WireError) in
      let (slot, generation) = (try input.integer(Int32.self), try input.integer(UInt32.self))
      guard slot >= 0 else { throw .unknown("slot \(slot)") }
      let digests = try input.list(max: ranksMax) { input throws(WireError) in
        try input.optional { input throws(WireError) in try input.digest() }
      }
      return GrantedBlock(slot: SlotIndex(Int(slot)), generation: generation, digests: digests)
    }
    return .found(lease: lease, blocks: blocks, isLast: isLast)
  }

  private static func stats(_ input: inout ByteReader) throws(WireError) -> StoreStats {
    var stats = StoreStats()
    stats.slots = try size(&input)
    stats.free = try size(&input)
    stats.writing = try size(&input)
    stats.sealed = try size(&input)
    stats.pinned = try size(&input)
    stats.leases = try size(&input)
    stats.staged = try size(&input)
    stats.granted = try input.integer()
    stats.released = try input.integer()
    stats.expired = try input.integer()
    stats.evicted = try input.integer()
    return stats
  }
}

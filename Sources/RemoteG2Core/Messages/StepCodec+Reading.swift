/// Reads what ``ByteWriter/order(_:)`` and ``ByteWriter/report(_:)`` wrote.
extension ByteReader {
  public mutating func order() throws(WireError) -> RankOrder {
    let tag = try integer(UInt8.self)
    let number = try integer(UInt64.self)
    switch tag {
    case 0:
      return .load(
        FetchID(number), from: try source(),
        moves: try all(12) { reader throws(WireError) in
          BlockMove(
            target: BlockIndex(try reader.int32()), source: SlotIndex(try reader.int32()),
            generation: try reader.integer())
        }, stall: try optional { reader throws(WireError) in try reader.duration() })
    case 1: return .stopPosting(FetchID(number))
    case 2:
      return .checkDigests(
        FetchID(number),
        try all(20) { reader throws(WireError) in
          ExpectedBlock(
            key: try reader.key(),
            digests: try reader.all(1) { reader throws(WireError) in
              try reader.optional { reader throws(WireError) in try reader.digest() }
            })
        })
    case 3: return .forget(FetchID(number))
    case 4: return .stage(try all(36) { reader throws(WireError) in try reader.save() })
    case 5: return .sourceDied(try source())
    case 6:
      return .attach(
        number, try source(), try all(21) { reader throws(WireError) in try reader.address() })
    case 7: return .rig(try raw(max: Int(Int32.max)))
    case let other: throw .unknown("order \(other)")
    }
  }

  public mutating func report() throws(WireError) -> RankReport {
    var report = RankReport(rank: try int32(), sequence: try integer())
    for (fetch, progress) in try all(
      24,
      { reader throws(WireError) in
        (FetchID(try reader.integer()), try reader.progress())
      })
    { report.progress[fetch] = progress }
    report.loadErrors = try all(4) { reader throws(WireError) in BlockIndex(try reader.int32()) }
    report.stagings = try all(37) { reader throws(WireError) in
      StagingResult(save: try reader.save(), isStaged: try reader.bool())
    }
    report.unlinked = try all(16) { reader throws(WireError) in try reader.incarnation() }
    for (source, moved) in try all(
      33,
      { reader throws(WireError) in
        (
          try reader.source(),
          RankReport.MovedBytes(bytes: try reader.int64(), duration: try reader.duration())
        )
      })
    { report.bytesMoved[source] = moved }
    for (number, isAttached) in try all(
      9,
      { reader throws(WireError) in
        (try reader.integer(UInt64.self), try reader.bool())
      })
    { report.attached[number] = isAttached }
    report.counts.transfersInFlight = try int64()
    report.counts.bytesMoved = try integer()
    report.counts.bytesLate = try integer()
    report.counts.rigCount = try int64()
    report.counts.savesDropped = try integer()
    report.at = try instant()
    report.kvDigests = try all(16) { reader throws(WireError) in try reader.digest() }
    return report
  }

  /// As many as follow.
  public mutating func all<Element>(
    _ each: Int, _ read: (inout ByteReader) throws(WireError) -> Element
  ) throws(WireError) -> [Element] { try list(max: Int(Int32.max), each: each, read) }

  public mutating func int32() throws(WireError) -> Int { Int(try integer(Int32.self)) }

  private mutating func int64() throws(WireError) -> Int { Int(try integer(Int64.self)) }

  private mutating func instant() throws(WireError) -> LocalInstant? {
    try optional { reader throws(WireError) in
      LocalInstant(nanoseconds: try reader.integer())
    }
  }

  private mutating func source() throws(WireError) -> SourceID {
    let id = try incarnation()
    return try bool() ? .peer(name: PeerName(try text()), id) : .local(id)
  }

  private mutating func address() throws(WireError) -> SourceAddress {
    guard try bool() else { return .own(socket: try text(), engine: try incarnation()) }
    return .remote(
      RankPool(
        metadata: try raw(max: Int(Int32.max)), address: try integer(), slotCount: try int64(),
        blockBytes: try int64()))
  }

  private mutating func save() throws(WireError) -> BlockSave {
    BlockSave(block: BlockIndex(try int32()), key: try key(), store: try incarnation())
  }

  private mutating func progress() throws(WireError) -> RankProgress {
    RankProgress(
      landed: try int32(), posting: try posting(),
      failure: try optional { reader throws(WireError) in try reader.failure() },
      unquiet: try all(4) { reader throws(WireError) in try reader.int32() },
      lastLanding: try instant(), stalledAt: try instant(), active: try duration(),
      proved: try optional { reader throws(WireError) in try reader.int32() })
  }

  private mutating func posting() throws(WireError) -> RankProgress.Posting {
    let value = try integer(UInt8.self)
    guard let posting = RankProgress.Posting(rawValue: value) else {
      throw .unknown("state \(value) of posting")
    }
    return posting
  }

  private mutating func failure() throws(WireError) -> TransferFailure {
    switch try integer(UInt8.self) {
    case 0: return .rejected(try text(max: Int(Int32.max)))
    case 1: return .backend(try text(max: Int(Int32.max)))
    case 2: return .changed(SlotIndex(try int32()))
    case 3: return .unknownSource
    case let other: throw .unknown("failure \(other)")
    }
  }
}

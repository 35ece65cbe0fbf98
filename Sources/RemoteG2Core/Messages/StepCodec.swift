/// How a step's orders and reports travel between the ranks of one group, which run the same build: no
/// version travels with them. A count is bounded by the bytes that follow it.
extension ByteWriter {
  public mutating func order(_ order: RankOrder) {
    switch order {
    case .load(let fetch, let source, let moves, let stall):
      tag(0, fetch.value)
      self.source(source)
      list(moves) { writer, move in
        writer.integer(Int32(move.target.index))
        writer.integer(Int32(move.source.index))
        writer.integer(move.generation)
      }
      optional(stall) { $0.duration($1) }
    case .stopPosting(let fetch): tag(1, fetch.value)
    case .checkDigests(let fetch, let blocks):
      tag(2, fetch.value)
      list(blocks) { writer, block in
        writer.key(block.key)
        writer.list(block.digests) { writer, digest in writer.optional(digest) { $0.digest($1) } }
      }
    case .forget(let fetch): tag(3, fetch.value)
    case .stage(let blocks):
      tag(4, 0)
      list(blocks) { $0.save($1) }
    case .sourceDied(let source):
      tag(5, 0)
      self.source(source)
    case .attach(let number, let source, let addresses):
      tag(6, number)
      self.source(source)
      list(addresses) { $0.address($1) }
    case .rig(let order):
      tag(7, 0)
      raw(order)
    }
  }

  public mutating func report(_ report: RankReport) {
    integer(Int32(report.rank))
    integer(report.sequence)
    list(report.progress) { writer, entry in
      writer.integer(entry.key.value)
      writer.progress(entry.value)
    }
    list(report.loadErrors) { $0.integer(Int32($1.index)) }
    list(report.stagings) { writer, staging in
      writer.save(staging.save)
      writer.bool(staging.isStaged)
    }
    list(report.unlinked) { $0.incarnation($1) }
    list(report.bytesMoved) { writer, entry in
      writer.source(entry.key)
      writer.integer(Int64(entry.value.bytes))
      writer.duration(entry.value.duration)
    }
    list(report.attached) { writer, entry in
      writer.integer(entry.key)
      writer.bool(entry.value)
    }
    integer(Int64(report.counts.transfersInFlight))
    integer(report.counts.bytesMoved)
    integer(report.counts.bytesLate)
    integer(Int64(report.counts.rigCount))
    integer(report.counts.savesDropped)
    optional(report.at) { $0.integer($1.nanoseconds) }
    list(report.kvDigests) { $0.digest($1) }
  }

  private mutating func tag(_ tag: UInt8, _ number: UInt64) {
    integer(tag)
    integer(number)
  }

  private mutating func source(_ source: SourceID) {
    incarnation(source.incarnation)
    guard case .peer(let name, _) = source else { return bool(false) }
    bool(true)
    text(name.text)
  }

  private mutating func address(_ address: SourceAddress) {
    switch address {
    case .remote(let pool):
      bool(true)
      raw(pool.metadata)
      integer(pool.address)
      integer(Int64(pool.slotCount))
      integer(Int64(pool.blockBytes))
    case .own(let socket, let engine):
      bool(false)
      text(socket)
      incarnation(engine)
    }
  }

  private mutating func save(_ save: BlockSave) {
    integer(Int32(save.block.index))
    key(save.key)
    incarnation(save.store)
  }

  private mutating func progress(_ progress: RankProgress) {
    integer(Int32(progress.landed))
    integer(progress.posting.rawValue)
    optional(progress.failure) { $0.failure($1) }
    list(progress.unquiet) { $0.integer(Int32($1)) }
    optional(progress.lastLanding) { $0.integer($1.nanoseconds) }
    optional(progress.stalledAt) { $0.integer($1.nanoseconds) }
    duration(progress.active)
    optional(progress.proved) { $0.integer(Int32($1)) }
  }

  private mutating func failure(_ failure: TransferFailure) {
    switch failure {
    case .rejected(let why):
      integer(UInt8(0))
      text(why)
    case .backend(let why):
      integer(UInt8(1))
      text(why)
    case .changed(let slot):
      integer(UInt8(2))
      integer(Int32(slot.index))
    case .unknownSource: integer(UInt8(3))
    }
  }
}

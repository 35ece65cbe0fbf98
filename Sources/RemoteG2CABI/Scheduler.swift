internal import CRemoteG2
internal import Glibc
internal import RemoteG2Core
internal import RemoteG2Library

@_cdecl("rg2_version") public func version() -> UInt32 { UInt32(RG2_ABI_VERSION) }
@_cdecl("rg2_error") public func error() -> UnsafePointer<CChar> { LastFailure.text }

extension EngineModel {
  init(_ pointer: UnsafeRawPointer?) throws(CallFailure) {
    guard let pointer else { throw .invalid("there is no model") }
    let model = pointer.load(as: rg2_model.self)
    func text(_ chars: UnsafePointer<CChar>?, _ name: String) throws(CallFailure) -> String {
      guard let chars else { throw .invalid("the model's \(name) is missing") }
      return String(cString: chars)
    }
    let fingerprint = Fingerprint(
      modelDigest: try text(model.model, "name"), weightEpoch: model.weight_epoch,
      layout: try text(model.layout, "layout"),
      hashScheme: try text(model.hash_scheme, "hash scheme"), rankCount: model.rank_count,
      numerics: try text(model.numerics, "numerics"))
    do throws(EngineModel.Invalid) {
      self = try EngineModel(
        fingerprint: fingerprint, blockBytes: Int(clamping: model.block_bytes),
        tokensPerBlock: Int(model.tokens_per_block))
    } catch { throw .invalid(error.description) }
  }
}

/// The path of the node's socket.
func socketPath(_ path: UnsafePointer<CChar>?) throws(CallFailure) -> String {
  guard let path else { throw .invalid("the path of the node's socket is missing") }
  let text = String(cString: path)
  guard (1..<108).contains(text.utf8.count) else {
    throw .invalid("'\(text)' cannot be a socket's path: 1 to 107 bytes")
  }
  return text
}

@_cdecl("rg2_scheduler_open")
public func schedulerOpen(
  _ model: UnsafeRawPointer?, _ socket: UnsafePointer<CChar>?
) -> UnsafeMutableRawPointer? {
  do throws(CallFailure) {
    let model = try EngineModel(model)
    let engine = StagedEngine(model, socket: try socketPath(socket))
    return Unmanaged.passRetained(SchedulerHandle(engine, rankCount: model.rankCount)).toOpaque()
  } catch {
    LastFailure.note(error)
    return nil
  }
}

@_cdecl("rg2_scheduler_close")
public func schedulerClose(_ handle: UnsafeMutableRawPointer?) {
  guard let handle else { return }
  let scheduler = Unmanaged<SchedulerHandle>.fromOpaque(handle)
  // In a forked child the thread that would end is not there.
  guard scheduler.takeUnretainedValue().process == getpid() else { return }
  scheduler.release()
}

/// Runs a call on its handle.
private func call(
  _ handle: UnsafeMutableRawPointer?, _ body: (SchedulerHandle) throws(CallFailure) -> Int32
) -> Int32 {
  do throws(CallFailure) {
    guard let handle else { throw .invalid("there is no scheduler half") }
    let scheduler = Unmanaged<SchedulerHandle>.fromOpaque(handle).takeUnretainedValue()
    guard scheduler.process == getpid() else { throw .forked }
    return try body(scheduler)
  } catch {
    LastFailure.note(error)
    if case .forked = error { return RG2_FORKED.rawValue }
    return RG2_INVALID.rawValue
  }
}

private func keys(
  _ hashes: UnsafePointer<UInt8>?, _ count: UInt32, _ bytes: UInt32, _ names: EngineKeys
) throws(CallFailure) -> [BlockKey] {
  guard count > 0 else { return [] }
  guard let hashes else { throw .invalid("the hashes are missing") }
  guard (UInt32(EngineKeys.hashBytesMin)...1024).contains(bytes) else {
    throw .invalid("block hashes of \(bytes) bytes: 16 to 1024 are possible")
  }
  guard count <= 1 << 20 else { throw .invalid("\(count) block hashes of one request") }
  return (0..<Int(count)).map { place in
    names.key(UnsafeRawBufferPointer(start: hashes + place * Int(bytes), count: Int(bytes)))
  }
}

private func blocks(
  _ numbers: UnsafePointer<Int32>?, _ count: UInt32
) throws(CallFailure) -> [BlockIndex] {
  guard count > 0 else { return [] }
  guard let numbers else { throw .invalid("the block numbers are missing") }
  let found = UnsafeBufferPointer(start: numbers, count: Int(count))
  if let wrong = found.first(where: { $0 < 0 }) { throw .invalid("there is no block \(wrong)") }
  return found.map { BlockIndex(Int($0)) }
}

@_cdecl("rg2_scheduler_new_request")
public func schedulerNewRequest(
  _ handle: UnsafeMutableRawPointer?, _ request: UInt64, _ hashes: UnsafePointer<UInt8>?,
  _ count: UInt32, _ bytes: UInt32
) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    let keys = try keys(hashes, count, bytes, scheduler.engine.keys)
    scheduler.engine.newRequest(RequestID(request), keys: keys)
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_scheduler_match")
public func schedulerMatch(
  _ handle: UnsafeMutableRawPointer?, _ request: UInt64, _ local: UInt32, _ most: UInt32,
  _ blocks: UnsafeMutablePointer<UInt32>?
) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    guard let blocks else { throw .invalid("there is nowhere to put the number of blocks") }
    blocks.pointee = 0
    switch scheduler.engine.match(RequestID(request), local: Int(local), most: Int(most)) {
    case .none: return Int32(RG2_NONE.rawValue)
    case .unknown, .pending: return Int32(RG2_PENDING.rawValue)
    case .ready(let count):
      blocks.pointee = UInt32(count)
      return Int32(RG2_READY.rawValue)
    }
  }
}

@_cdecl("rg2_scheduler_bind")
public func schedulerBind(
  _ handle: UnsafeMutableRawPointer?, _ request: UInt64, _ local: UInt32,
  _ targets: UnsafePointer<Int32>?, _ count: UInt32
) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    let targets = try blocks(targets, count)
    guard scheduler.engine.bind(RequestID(request), local: Int(local), targets: targets) else {
      throw .invalid(
        "\(count) blocks after \(local) are bound, and fewer were ready: bind what match answered")
    }
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_scheduler_scheduled")
public func schedulerScheduled(
  _ handle: UnsafeMutableRawPointer?, _ request: UInt64, _ computed: UInt32, _ scheduled: UInt32,
  _ hashes: UnsafePointer<UInt8>?, _ hashCount: UInt32, _ bytes: UInt32,
  _ numbers: UnsafePointer<Int32>?, _ blockCount: UInt32, _ isWhole: Int32
) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    let hasMore = scheduler.engine.scheduled(
      RequestID(request), computed: Int(computed), scheduled: Int(scheduled),
      keys: try keys(hashes, hashCount, bytes, scheduler.engine.keys),
      blocks: try blocks(numbers, blockCount), isWhole: isWhole != 0)
    return hasMore ? 1 : 0
  }
}

@_cdecl("rg2_scheduler_plan")
public func schedulerPlan(
  _ handle: UnsafeMutableRawPointer?, _ tokens: UInt32, _ length: UnsafeMutablePointer<Int>?
) -> UnsafePointer<UInt8>? {
  var lent: UnsafePointer<UInt8>?
  _ = call(handle) { scheduler throws(CallFailure) in
    guard let length else { throw .invalid("there is nowhere to put the plan's length") }
    let bytes = StagedCodec.encode(scheduler.engine.plan(tokens: Int(tokens)))
    length.pointee = bytes.count
    lent = scheduler.lent.lend(bytes)
    return RG2_OK.rawValue
  }
  return lent
}

@_cdecl("rg2_scheduler_absorb")
public func schedulerAbsorb(
  _ handle: UnsafeMutableRawPointer?, _ reports: UnsafePointer<UnsafePointer<UInt8>?>?,
  _ lengths: UnsafePointer<Int>?, _ count: UInt32
) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    guard let reports, let lengths, Int(count) == scheduler.rankCount else {
      throw .invalid("\(count) reports of \(scheduler.rankCount) ranks")
    }
    var all: [StagedReport] = []
    for place in 0..<Int(count) {
      let bytes = UnsafeRawBufferPointer(start: reports[place], count: max(0, lengths[place]))
      do throws(WireError) {
        all.append(try StagedCodec.report(bytes))
      } catch { throw .invalid("report \(place): \(error)") }
    }
    guard Set(all.map(\.rank)).count == all.count, Set(all.map(\.step)).count == 1 else {
      throw .invalid("the reports are not those of all ranks of one step")
    }
    scheduler.engine.absorb(all)
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_scheduler_finished")
public func schedulerFinished(_ handle: UnsafeMutableRawPointer?, _ request: UInt64) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    scheduler.engine.finished(RequestID(request))
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_scheduler_wait")
public func schedulerWait(_ handle: UnsafeMutableRawPointer?, _ microseconds: UInt64) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    scheduler.engine.wait(atMost: .microseconds(min(microseconds, 1_000_000)))
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_scheduler_pending")
public func schedulerPending(_ handle: UnsafeMutableRawPointer?) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in Int32(scheduler.engine.pendingCount) }
}

@_cdecl("rg2_scheduler_attached")
public func schedulerAttached(_ handle: UnsafeMutableRawPointer?) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in scheduler.engine.isAttached ? 1 : 0 }
}

@_cdecl("rg2_scheduler_counts")
public func schedulerCounts(
  _ handle: UnsafeMutableRawPointer?, _ counts: UnsafeMutableRawPointer?
) -> Int32 {
  call(handle) { scheduler throws(CallFailure) in
    guard let counts else { throw .invalid("there is nowhere to put the counts") }
    let found = scheduler.engine.counts
    counts.storeBytes(
      of: rg2_counts(
        asked: found.asked, ready: found.ready, none: found.none, late: found.late,
        loads: found.loads, loads_failed: found.loadsFailed, blocks_bound: found.blocksBound,
        blocks_committed: found.blocksCommitted, stages_dropped: found.stagesDropped,
        saves_lost: found.savesLost), as: rg2_counts.self)
    return RG2_OK.rawValue
  }
}

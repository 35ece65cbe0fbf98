internal import CRemoteG2
internal import Glibc
internal import RemoteG2Core
internal import RemoteG2Library

@_cdecl("rg2_rank_open")
public func rankOpen(
  _ model: UnsafeRawPointer?, _ socket: UnsafePointer<CChar>?, _ rank: UInt32,
  _ layers: UnsafeRawPointer?, _ layerCount: UInt32, _ blockCount: UInt64,
  _ device: UnsafeRawPointer?
) -> UnsafeMutableRawPointer? {
  do throws(CallFailure) {
    let model = try EngineModel(model)
    let path = try socketPath(socket)
    let pages = try pages(layers, layerCount, blockCount, try PageDevice(device))
    do throws(StagedRank.Invalid) {
      let made = try StagedRank(model, rank: Int(rank), socket: path, pages: pages)
      return Unmanaged.passRetained(RankHandle(made)).toOpaque()
    } catch { throw .invalid(error.description) }
  } catch {
    LastFailure.note(error)
    return nil
  }
}

private func pages(
  _ layers: UnsafeRawPointer?, _ layerCount: UInt32, _ blockCount: UInt64, _ device: PageDevice?
) throws(CallFailure) -> EnginePages {
  guard let layers, (1...4096).contains(layerCount) else {
    throw .invalid("\(layerCount) layers: 1 to 4096 are possible")
  }
  let found = UnsafeBufferPointer(
    start: layers.assumingMemoryBound(to: rg2_layer.self), count: Int(layerCount))
  var pages: [EnginePages.Layer] = []
  for (place, layer) in found.enumerated() {
    guard let base = layer.base, layer.bytes <= 1 << 30, layer.stride <= 1 << 40 else {
      throw .invalid("layer \(place) has no base, or its pages are too large")
    }
    pages.append(EnginePages.Layer(base: base, stride: Int(layer.stride), bytes: Int(layer.bytes)))
  }
  guard blockCount < 1 << 31,
    let made = EnginePages(layers: pages, blockCount: Int(blockCount), device: device)
  else { throw .invalid("the pages overlap, or there are none") }
  return made
}

@_cdecl("rg2_rank_close")
public func rankClose(_ handle: UnsafeMutableRawPointer?) {
  guard let handle else { return }
  let rank = Unmanaged<RankHandle>.fromOpaque(handle)
  guard rank.takeUnretainedValue().process == getpid() else { return }
  rank.release()
}

/// Runs a call on its handle.
private func call(
  _ handle: UnsafeMutableRawPointer?, _ body: (RankHandle) throws(CallFailure) -> Int32
) -> Int32 {
  do throws(CallFailure) {
    guard let handle else { throw .invalid("there is no rank") }
    let rank = Unmanaged<RankHandle>.fromOpaque(handle).takeUnretainedValue()
    guard rank.process == getpid() else { throw .forked }
    return try body(rank)
  } catch {
    LastFailure.note(error)
    if case .forked = error { return RG2_FORKED.rawValue }
    return RG2_INVALID.rawValue
  }
}

@_cdecl("rg2_rank_begin")
public func rankBegin(
  _ handle: UnsafeMutableRawPointer?, _ plan: UnsafePointer<UInt8>?, _ length: Int
) -> Int32 {
  call(handle) { rank throws(CallFailure) in
    do throws(WireError) {
      rank.rank.begin(
        try StagedCodec.plan(UnsafeRawBufferPointer(start: plan, count: max(0, length))))
    } catch { throw .invalid("the plan: \(error)") }
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_rank_load") public func rankLoad(_ handle: UnsafeMutableRawPointer?) -> Int32 {
  call(handle) { rank throws(CallFailure) in
    rank.finished += rank.rank.load()
    rank.errors += rank.rank.takeErrors()
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_rank_stage") public func rankStage(_ handle: UnsafeMutableRawPointer?) -> Int32 {
  call(handle) { rank throws(CallFailure) in
    rank.rank.stage()
    return RG2_OK.rawValue
  }
}

@_cdecl("rg2_rank_finished")
public func rankFinished(
  _ handle: UnsafeMutableRawPointer?, _ requests: UnsafeMutablePointer<UInt64>?, _ capacity: UInt32
) -> Int32 {
  call(handle) { rank throws(CallFailure) in
    let count = rank.finished.count
    guard capacity == 0 || requests != nil else { throw .invalid("there is nowhere to put them") }
    for place in 0..<min(count, Int(capacity)) { requests![place] = rank.finished[place].value }
    rank.finished.removeFirst(min(count, Int(capacity)))
    return Int32(count)
  }
}

@_cdecl("rg2_rank_load_errors")
public func rankLoadErrors(
  _ handle: UnsafeMutableRawPointer?, _ blocks: UnsafeMutablePointer<Int32>?, _ capacity: UInt32
) -> Int32 {
  call(handle) { rank throws(CallFailure) in
    let count = rank.errors.count
    guard capacity == 0 || blocks != nil else { throw .invalid("there is nowhere to put them") }
    for place in 0..<min(count, Int(capacity)) { blocks![place] = rank.errors[place].value }
    rank.errors.removeFirst(min(count, Int(capacity)))
    return Int32(count)
  }
}

@_cdecl("rg2_rank_report")
public func rankReport(
  _ handle: UnsafeMutableRawPointer?, _ length: UnsafeMutablePointer<Int>?
) -> UnsafePointer<UInt8>? {
  var lent: UnsafePointer<UInt8>?
  _ = call(handle) { rank throws(CallFailure) in
    guard let length else { throw .invalid("there is nowhere to put the report's length") }
    let bytes = rank.rank.takeReport().map { StagedCodec.encode($0) } ?? []
    length.pointee = bytes.count
    lent = rank.lent.lend(bytes)
    return RG2_OK.rawValue
  }
  return lent
}

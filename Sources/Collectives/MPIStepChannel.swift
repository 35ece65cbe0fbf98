internal import OSThreads
public import RemoteG2Core

/// How plans and reports travel as bytes. Both ends run the same program.
public struct FrameCoder<Value: Sendable>: Sendable {
  let encode: @Sendable (Value) -> [UInt8]
  let decode: @Sendable (UnsafeRawBufferPointer) -> Value

  public init(
    encode: @escaping @Sendable (Value) -> [UInt8],
    decode: @escaping @Sendable (UnsafeRawBufferPointer) -> Value
  ) {
    self.encode = encode
    self.decode = decode
  }
}

/// The control collectives of a group of processes. Used by this rank's step thread only.
///
/// A broadcast is its size and then its bytes, a gather is the sizes and then the bytes: the same calls
/// on every rank, in the same order, whatever is in them.
public final class MPIStepChannel<Plan: Sendable, Report: Sendable>: StepChannel {
  private struct Header {
    var count: UInt64
    var bytes: UInt64
  }

  private let group: MPIGroup
  private let plans: FrameCoder<Plan>
  private let reports: FrameCoder<Report>
  private let limits: Limits
  public var rank: Int { group.rank }
  public var rankCount: Int { group.rankCount }
  /// How often each was entered; they never differ by more than the step in progress.
  public private(set) var broadcastCount: UInt64 = 0
  public private(set) var gatherCount: UInt64 = 0

  public init(
    _ group: MPIGroup, plans: FrameCoder<Plan>, reports: FrameCoder<Report>, limits: Limits
  ) {
    self.group = group
    self.plans = plans
    self.reports = reports
    self.limits = limits
  }

  public func broadcast(_ plan: Plan?) -> Plan {
    broadcastCount += 1
    precondition(gatherCount + 1 == broadcastCount, "a broadcast without the gather before it")
    if rank == 0 {
      guard let plan else { preconditionFailure("the leader broadcasts its plan") }
      var bytes = plans.encode(plan)
      precondition(bytes.count <= limits.groupMessageBytesMax, "a plan of \(bytes.count) bytes")
      var header = Header(count: broadcastCount, bytes: UInt64(bytes.count))
      for other in 1..<rankCount { group.bell.ring(other) }
      withUnsafeMutableBytes(of: &header) { group.ibcast($0, hearing: false) }
      bytes.withUnsafeMutableBytes { group.ibcast($0, hearing: false) }
      return plan
    }
    precondition(plan == nil, "only the leader plans")
    var header = Header(count: 0, bytes: 0)
    withUnsafeMutableBytes(of: &header) { group.ibcast($0, hearing: true) }
    precondition(
      header.count == broadcastCount,
      "plan \(header.count) came where \(broadcastCount) was expected")
    var bytes = [UInt8](repeating: 0, count: Int(header.bytes))
    bytes.withUnsafeMutableBytes { group.ibcast($0, hearing: false) }
    return bytes.withUnsafeBytes { plans.decode($0) }
  }

  public func gather(_ report: Report) -> [Report] {
    gatherCount += 1
    precondition(gatherCount == broadcastCount, "a gather without its broadcast")
    let bytes = reports.encode(report)
    precondition(
      bytes.count <= min(limits.groupMessageBytesMax, Int(Int32.max) / rankCount),
      "a report of \(bytes.count) bytes")
    var header = Header(count: gatherCount, bytes: UInt64(bytes.count))
    guard rank == 0 else {
      withUnsafeBytes(of: &header) { group.gather($0, into: nil) }
      bytes.withUnsafeBytes { group.gather($0, into: nil, counts: [], places: []) }
      return []
    }
    var headers = [Header](repeating: Header(count: 0, bytes: 0), count: rankCount)
    headers.withUnsafeMutableBytes { all in
      withUnsafeBytes(of: &header) { group.gather($0, into: all.baseAddress) }
    }
    precondition(
      headers.allSatisfy { $0.count == gatherCount }, "a rank reported on another plan")
    let counts = headers.map { Int32($0.bytes) }
    var places: [Int32] = []
    var total: Int32 = 0
    for count in counts {
      places.append(total)
      total += count
    }
    var all = [UInt8](repeating: 0, count: Int(total))
    all.withUnsafeMutableBytes { all in
      bytes.withUnsafeBytes {
        group.gather($0, into: all.baseAddress, counts: counts, places: places)
      }
    }
    return all.withUnsafeBytes { all in
      zip(places, counts).map { place, count in
        reports.decode(UnsafeRawBufferPointer(rebasing: all[Int(place)..<Int(place + count)]))
      }
    }
  }
}

/// The sums of a group of processes. Used by this rank's forward pass only.
public final class MPITensorReducer: TensorReducer {
  private let group: MPIGroup
  private var parts: [Float] = []
  public var rank: Int { group.rank }
  public var rankCount: Int { group.rankCount }
  /// How often it was entered: the same on every rank.
  public private(set) var sumCount: UInt64 = 0

  public init(_ group: MPIGroup) { self.group = group }

  public func sum(_ values: UnsafeMutablePointer<Float>, count: Int) {
    sumCount += 1
    if parts.count < count * rankCount {
      parts = [Float](repeating: 0, count: count * rankCount)
    }
    parts.withUnsafeMutableBufferPointer { parts in
      guard let base = parts.baseAddress else { return }
      group.allgather(
        UnsafeRawBufferPointer(start: values, count: count * MemoryLayout<Float>.stride),
        into: base)
      RankOrderSum.add(
        (0..<rankCount).map { UnsafePointer(base + $0 * count) }, count: count, into: values)
    }
  }
}

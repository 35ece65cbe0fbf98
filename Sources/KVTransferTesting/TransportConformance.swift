internal import Glibc
public import KVTransfer
internal import OSThreads
public import RemoteG2Core

/// What any `Transport` must do. Run it against ours, a mock, or your own.
///
/// It needs a source with at least sixteen slots whose slot `s` holds the bytes of
/// ``pattern(slot:byte:)``, and a target of at least thirty-two blocks of the same size.
public struct TransportConformance {
  /// One thing that did not hold.
  public struct Violation: Error, Equatable, Sendable, CustomStringConvertible {
    public let check: String
    public let what: String
    public var description: String { "\(check): \(what)" }
  }

  private let transport: any Transport
  private let target: BlockRegion
  private let source: SourceID
  private let describe: SourceDescription
  private let slotCount: Int
  private let secondsMax: Int

  public init(
    _ transport: any Transport, target: BlockRegion, source: SourceID,
    description: SourceDescription, slotCount: Int, secondsMax: Int = 10
  ) {
    precondition(slotCount >= 16 && target.blockCount >= 32, "too small a world to test in")
    self.transport = transport
    self.target = target
    self.source = source
    describe = description
    self.slotCount = slotCount
    self.secondsMax = secondsMax
  }

  /// The byte at `byte` of a slot.
  public static func pattern(slot: Int, byte: Int) -> UInt8 {
    UInt8(truncatingIfNeeded: slot &* 31 &+ byte &* 7 &+ byte >> 8)
  }

  public static func fill(_ region: BlockRegion) {
    for slot in 0..<region.blockCount {
      let bytes = region.pointer(to: slot).assumingMemoryBound(to: UInt8.self)
      for byte in 0..<region.blockBytes { bytes[byte] = pattern(slot: slot, byte: byte) }
    }
  }

  /// Runs every check, in order, and returns what did not hold.
  public func run() -> [Violation] {
    let checks: [(String, () throws -> Void)] = [
      ("an unknown source is refused", unknownSource),
      ("a slot outside the pool is refused, and nothing moves", outsideSlot),
      ("every block lands where it belongs, and nothing else is written", landing),
      ("every transfer ends exactly once", endings),
      ("one source block may land in several targets", repeats),
      ("a detached source is unknown", detaching),
      ("after a fence everything posted is quiet and nothing is in flight", fencing),
    ]
    var violations: [Violation] = []
    for (name, check) in checks {
      do { try check() } catch let violation as Violation {
        violations.append(violation)
      } catch {
        violations.append(Violation(check: name, what: "\(error)"))
      }
    }
    transport.shutDown()
    transport.shutDown()
    return violations
  }

  // MARK: Checks

  private func unknownSource() throws {
    let stranger = SourceID.peer(name: "stranger", Incarnation(high: 1, low: 2))
    do throws(TransferFailure) {
      try transport.post(id(1, 0), from: stranger, [move(0, 0)], at: MonotonicClock.now())
    } catch {
      return
    }
    throw violation("a read from a source that was never attached was accepted")
  }

  private func outsideSlot() throws {
    try transport.attach(source, describe)
    clear()
    for slot in [slotCount, slotCount + 1000, -1] {
      do throws(TransferFailure) {
        try transport.post(
          id(2, slot), from: source, [move(0, 0), move(1, slot)], at: MonotonicClock.now())
      } catch {
        continue
      }
      throw violation("slot \(slot) of \(slotCount) was accepted")
    }
    let events = try drain(0)
    try require(events.isEmpty, "a refused read told \(events)")
    try requireUntouched(except: [])
  }

  private func landing() throws {
    clear()
    // Shuffled, so that position, target and source never coincide.
    let moves = (0..<8).map { move(($0 * 5 + 3) % 32, ($0 * 7 + 2) % 16) }
    try transport.post(id(3, 0), from: source, moves, at: MonotonicClock.now())
    let events = try drain(1)
    guard case .landed? = events.first, events.count == 1 else {
      throw violation("it told \(events)")
    }
    for move in moves { try requireEqual(move) }
    try requireUntouched(except: Set(moves.map(\.target.index)))
  }

  private func endings() throws {
    clear()
    let count = 12
    for ordinal in 0..<count {
      try transport.post(
        id(4, ordinal), from: source, [move(ordinal, ordinal % 16)], at: MonotonicClock.now())
    }
    let events = try drain(count)
    try require(
      Set(events.map(\.transfer)).count == count && events.count == count,
      "\(count) transfers told \(events.count) ends")
    try require(transport.inFlightCount == 0, "\(transport.inFlightCount) are still in flight")
  }

  private func repeats() throws {
    clear()
    let moves = [move(0, 5), move(1, 5), move(2, 5)]
    try transport.post(id(5, 0), from: source, moves, at: MonotonicClock.now())
    _ = try drain(1)
    for move in moves { try requireEqual(move) }
  }

  private func detaching() throws {
    transport.detach(source)
    do throws(TransferFailure) {
      try transport.post(id(6, 0), from: source, [move(0, 0)], at: MonotonicClock.now())
    } catch {
      try transport.attach(source, describe)
      return
    }
    throw violation("a read from a detached source was accepted")
  }

  private func fencing() throws {
    clear()
    let posted = 4
    for ordinal in 0..<posted {
      try transport.post(
        id(7, ordinal), from: source, [move(ordinal, ordinal)], at: MonotonicClock.now())
    }
    transport.fence(source)
    var ends: [TransferID: [TransferEvent]] = [:]
    for event in try drain(nil) { ends[event.transfer, default: []].append(event) }
    for ordinal in 0..<posted {
      let told = ends[id(7, ordinal)] ?? []
      switch told.last {
      case .landed?: try require(told.count == 1, "\(told)")
      case .quiet?: try require(told.count == 2, "\(told)")
      default: throw violation("transfer \(ordinal) told \(told)")
      }
    }
    try require(transport.inFlightCount == 0, "\(transport.inFlightCount) are still in flight")
    // Quiet: what the target holds now, it keeps.
    clear()
    _ = try drain(0)
    try requireUntouched(except: [])
  }

  // MARK: Parts

  private func id(_ fetch: Int, _ ordinal: Int) -> TransferID {
    TransferID(fetch: FetchID(UInt64(fetch)), ordinal: ordinal)
  }

  private func move(_ target: Int, _ source: Int) -> BlockMove {
    BlockMove(target: BlockIndex(target), source: SlotIndex(source))
  }

  private func violation(
    _ what: String, function: StaticString = #function
  ) -> Violation { Violation(check: "\(function)", what: what) }

  private func require(
    _ holds: Bool, _ what: @autoclosure () -> String, function: StaticString = #function
  ) throws {
    if !holds { throw violation(what(), function: function) }
  }

  private func clear() { memset(target.base, 0xEE, target.blockBytes * target.blockCount) }

  /// Polls until `count` transfers have ended, or, with nil, until nothing is in flight; then a few
  /// times more, to see what comes late.
  private func drain(_ count: Int?) throws -> [TransferEvent] {
    var events: [TransferEvent] = []
    let deadline = MonotonicClock.now() + .seconds(secondsMax)
    func isDone() -> Bool {
      let ends = events.count {
        if case .failed = $0 { false } else { true }
      }
      return count.map { ends >= $0 } ?? (transport.inFlightCount == 0 && !events.isEmpty)
    }
    while !isDone() {
      guard MonotonicClock.now() < deadline else {
        throw violation("only \(events) within \(secondsMax) s")
      }
      transport.poll(at: MonotonicClock.now(), into: &events)
    }
    for _ in 0..<50 { transport.poll(at: MonotonicClock.now(), into: &events) }
    return events
  }

  private func requireEqual(_ move: BlockMove) throws {
    let bytes = target.bytes(of: move.target.index)
    for byte in 0..<target.blockBytes
    where bytes[byte] != Self.pattern(slot: move.source.index, byte: byte) {
      throw violation("\(move.target) differs from \(move.source) at byte \(byte)")
    }
  }

  private func requireUntouched(except touched: Set<Int>) throws {
    for block in 0..<target.blockCount where !touched.contains(block) {
      guard target.bytes(of: block).allSatisfy({ $0 == 0xEE }) else {
        throw violation("block \(block) was written")
      }
    }
  }
}

public import KVTransfer
public import RemoteG2Core

/// What goes wrong with one transfer.
public enum TransferFault: String, Equatable, Sendable, CaseIterable {
  /// `post` throws: nothing moves.
  case failAtPost
  /// Half of its blocks arrive, then it fails, and is quiet a poll later.
  case halfComplete
  /// It never ends by itself; only a fence ends it.
  case hang
  /// It lands, twenty polls late.
  case slow
  /// It lands with one wrong byte.
  case corrupt
  /// It fails at once; its bytes go on landing, and it is quiet only after the last.
  case lateLanding
  /// As `lateLanding`, and a fence takes twenty polls to end it.
  case refuseRelease
  /// Its source dies: it and everything after it from that source fails.
  case peerGone
}

/// Wraps any transport and lets chosen transfers go wrong, the way real ones do.
public final class FaultyTransport: Transport {
  private struct Pending {
    let source: SourceID
    let moves: [BlockMove]
    let fault: TransferFault
    var polls = 0
    var hasFailed = false
    var innerEnded = false
    var isFenced = false
    var isFailing = false
  }

  private static let delayPolls = 20

  private let inner: any Transport
  private let target: BlockRegion
  private let fault: (TransferID) -> TransferFault?
  private var pending: [TransferID: Pending] = [:]
  private var dead: Set<SourceID> = []
  /// How often each fault took effect: a fault test proves with it that the fault happened.
  public private(set) var applied: [TransferFault: Int] = [:]
  public var appliedCount: Int { applied.values.reduce(0, +) }

  public init(
    _ inner: any Transport, target: BlockRegion, fault: @escaping (TransferID) -> TransferFault?
  ) {
    self.inner = inner
    self.target = target
    self.fault = fault
  }

  public func attach(
    _ source: SourceID, _ description: SourceDescription
  ) throws(TransferFailure) { try inner.attach(source, description) }

  public func detach(_ source: SourceID) { inner.detach(source) }

  public func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure) {
    if dead.contains(source) { throw .rejected("the source is gone") }
    guard let fault = fault(transfer) else {
      try inner.post(transfer, from: source, moves, at: now)
      return
    }
    switch fault {
    case .failAtPost:
      applied[fault, default: 0] += 1
      throw .rejected("fault: fail at post")
    case .peerGone:
      dead.insert(source)
      pending[transfer] = Pending(source: source, moves: moves, fault: fault, innerEnded: true)
    case .hang:
      applied[fault, default: 0] += 1
      pending[transfer] = Pending(source: source, moves: moves, fault: fault, innerEnded: true)
    case .halfComplete:
      let half = Array(moves.prefix(max(1, moves.count / 2)))
      try inner.post(transfer, from: source, half, at: now)
      pending[transfer] = Pending(source: source, moves: moves, fault: fault)
    case .slow, .corrupt, .lateLanding, .refuseRelease:
      try inner.post(transfer, from: source, moves, at: now)
      pending[transfer] = Pending(source: source, moves: moves, fault: fault)
    }
  }

  public func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
    var real: [TransferEvent] = []
    inner.poll(at: now, into: &real)
    for event in real {
      if pending[event.transfer] == nil {
        events.append(event)
      } else if case .failed = event {
        continue
      } else {
        pending[event.transfer]?.innerEnded = true
      }
    }
    for transfer in pending.keys.sorted() {
      guard var state = pending[transfer] else { continue }
      state.polls += 1
      let isDone = advance(transfer, &state, at: now, into: &events)
      pending[transfer] = isDone ? nil : state
    }
  }

  /// - Returns: true when the transfer is quiet.
  private func advance(
    _ transfer: TransferID, _ state: inout Pending, at now: LocalInstant,
    into events: inout [TransferEvent]
  ) -> Bool {
    func fail(byFault: Bool = false) {
      guard !state.hasFailed else { return }
      state.hasFailed = true
      if byFault { applied[state.fault, default: 0] += 1 }
      events.append(.failed(transfer, .backend("fault: \(state.fault)"), at: now))
    }
    func quiet() -> Bool {
      events.append(.quiet(transfer, at: now))
      return true
    }
    if state.isFenced, state.fault != .refuseRelease || state.polls >= Self.delayPolls {
      fail()
      return quiet()
    }
    if state.isFailing {
      if state.hasFailed { return quiet() }
      fail()
      return false
    }
    switch state.fault {
    case .hang, .failAtPost: return false
    case .peerGone:
      fail(byFault: true)
      return quiet()
    case .slow:
      guard state.innerEnded, state.polls >= Self.delayPolls else { return false }
      applied[state.fault, default: 0] += 1
      events.append(.landed(transfer, at: now))
      return true
    case .corrupt:
      guard state.innerEnded, let first = state.moves.first else { return false }
      let byte = target.pointer(to: first.target.index)
      applied[state.fault, default: 0] += 1
      byte.storeBytes(of: ~byte.load(as: UInt8.self), as: UInt8.self)
      events.append(.landed(transfer, at: now))
      return true
    case .halfComplete:
      guard state.innerEnded else { return false }
      if state.hasFailed { return quiet() }
      fail(byFault: true)
      return false
    case .lateLanding, .refuseRelease:
      fail(byFault: true)
      return state.innerEnded && state.polls >= Self.delayPolls ? quiet() : false
    }
  }

  /// What hung goes on, as after SIGCONT: it lands late, into whatever its target has become.
  public func resumeHung(at now: LocalInstant) {
    for transfer in pending.keys.sorted() {
      guard let state = pending[transfer], state.fault == .hang, !state.isFenced else { continue }
      do throws(TransferFailure) {
        try inner.post(transfer, from: state.source, state.moves, at: now)
        pending[transfer] = nil
      } catch {
        pending[transfer]?.isFenced = true
      }
    }
  }

  /// What hung fails, and is quiet a poll later.
  public func failHung() {
    for (transfer, state) in pending where state.fault == .hang && !state.isFenced {
      pending[transfer]?.isFailing = true
    }
  }

  /// Transfers that a fence found going wrong.
  public private(set) var fencedCount = 0

  public func fence(_ source: SourceID) {
    for (transfer, state) in pending where state.source == source {
      fencedCount += 1
      pending[transfer]?.isFenced = true
    }
    inner.fence(source)
  }

  /// A fault is told by polls that are counted; without one, what the other transport hears is all.
  public var eventDescriptors: [Int32]? { pending.isEmpty ? inner.eventDescriptors : nil }

  public var inFlightCount: Int {
    inner.inFlightCount + pending.values.count { $0.innerEnded }
  }

  public func shutDown() {
    pending = [:]
    inner.shutDown()
  }
}

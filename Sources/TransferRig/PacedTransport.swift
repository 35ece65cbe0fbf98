public import KVTransfer
public import RemoteG2Core

/// Slows another transport down to a rate, by polling it less often.
///
/// A paced transfer is really in flight for its whole time: NIXL moves nothing for a reader that
/// does not poll. Demonstrations use it to make a fault arrive in the middle of a pull.
public final class PacedTransport: Transport {
  private let inner: any Transport
  private let blockBytes: Int
  /// Nil: no pacing.
  public var bytesPerSecond: Double?
  /// When each transfer in flight may be polled, oldest first.
  private var due: [(transfer: TransferID, at: LocalInstant)] = []
  private var lastDue = LocalInstant(nanoseconds: 0)

  public init(_ inner: any Transport, blockBytes: Int) {
    self.inner = inner
    self.blockBytes = blockBytes
  }

  public func attach(
    _ source: SourceID, _ description: SourceDescription
  ) throws(TransferFailure) { try inner.attach(source, description) }

  public func detach(_ source: SourceID) { inner.detach(source) }

  public func post(
    _ transfer: TransferID, from source: SourceID, _ moves: [BlockMove], at now: LocalInstant
  ) throws(TransferFailure) {
    try inner.post(transfer, from: source, moves, at: now)
    guard let bytesPerSecond else { return }
    let seconds = Double(moves.count * blockBytes) / bytesPerSecond
    lastDue = max(lastDue, now) + .nanoseconds(Int64(seconds * 1e9))
    due.append((transfer, lastDue))
  }

  public func poll(at now: LocalInstant, into events: inout [TransferEvent]) {
    if let first = due.first, first.at > now { return }
    let before = events.count
    inner.poll(at: now, into: &events)
    for event in events[before...] { due.removeAll { $0.transfer == event.transfer } }
    // Still moving though its time has come: poll freely until it ends.
  }

  public func fence(_ source: SourceID) {
    inner.fence(source)
    due = []
  }

  public var inFlightCount: Int { inner.inFlightCount }
  /// A transfer whose time has not come is not polled, whatever has arrived.
  public var eventDescriptors: [Int32]? { bytesPerSecond == nil ? inner.eventDescriptors : nil }
  public func shutDown() { inner.shutDown() }
}

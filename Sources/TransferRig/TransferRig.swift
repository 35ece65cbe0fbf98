public import KVTransfer
internal import RemoteG2Core

/// The rig of one rank's pump: it slows the peers' transfers down, breaks chosen ones, and tells what it
/// sees. Lives on the pump's thread.
public final class TransferRig: PumpRig {
  /// Which transfer of a fetch goes wrong, where one is told to: in the middle of a paced pull, and the
  /// same on every rank, since a group that has seen a failure posts nothing more.
  public static let brokenTransfer = 8

  private let rank: Int
  private let faulty: FaultyTransport?
  private let paced: PacedTransport
  private let tell: @Sendable (TransferTrace) -> Void
  private var isTracing = false
  private let broken: Broken

  /// The fault that is ordered, where its transport looks for it.
  private final class Broken {
    var fault: TransferFault?
  }

  /// - Parameters:
  ///   - breaks: Whether transfers may be ordered to go wrong.
  ///   - tell: Is told every transfer's moments while they are traced, on the pump's thread.
  public init(
    _ peers: any Transport, target: BlockRegion, rank: Int, breaks: Bool,
    tell: @escaping @Sendable (TransferTrace) -> Void
  ) {
    self.rank = rank
    self.tell = tell
    let broken = Broken()
    self.broken = broken
    faulty =
      breaks
      ? FaultyTransport(peers, target: target) {
        $0.ordinal == Self.brokenTransfer ? broken.fault : nil
      } : nil
    paced = PacedTransport(faulty ?? peers, blockBytes: target.blockBytes)
  }

  /// How the rigs of a worker's ranks are made.
  public static func rigging(
    breaks: Bool, tell: @escaping @Sendable (TransferTrace) -> Void
  ) -> PumpRigging {
    PumpRigging { peers, target, rank in
      let rig = TransferRig(peers, target: target, rank: rank, breaks: breaks, tell: tell)
      return (rig, rig.paced)
    }
  }

  /// What it holds the pump to now.
  private var tuning = PumpTuning()

  public func obey(_ order: [UInt8]) -> PumpTuning {
    switch Result(catching: { () throws(WireError) in try RigOrder(order) }) {
    case .success(.pace(let rate, let blocks, let ranks)):
      paced.bytesPerSecond = ranks?.contains(rank) ?? true ? rate : nil
      // One at a time, so that landings come evenly and not a window at a time.
      tuning = PumpTuning(
        postedMax: paced.bytesPerSecond == nil ? nil : 1, transferBlocksMax: blocks)
    case .success(.inject(let fault, let ranks)):
      broken.fault = ranks.contains(rank) ? fault : nil
    case .success(.trace(let isOn)): isTracing = isOn
    case .failure(let error): preconditionFailure("an order to a rig cannot be read: \(error)")
    }
    return tuning
  }

  public func saw(_ moment: TransferTrace) { if isTracing { tell(moment) } }

  /// The pace of this rank's transfers, and what goes wrong with them, as ordered.
  package var bytesPerSecond: Double? { paced.bytesPerSecond }
  package var fault: TransferFault? { broken.fault }

  /// Transfers that went wrong because they were told to.
  public var count: Int { faulty?.appliedCount ?? 0 }
}

public import RemoteG2Core

/// One moment in a transfer's life, by the pump's clock.
public struct TransferTrace: Equatable, Sendable {
  public enum Moment: String, Sendable { case posted, landed, failed, quiet }

  public let transfer: TransferID
  public let moment: Moment
  public let at: LocalInstant
  public let bytes: Int
}

/// What a test or a demonstration fastens to a pump to slow it down, to break it and to look into it. A pump
/// that serves has none.
///
/// A rig lives on its pump's thread. Only the rig itself knows what its orders mean
/// (``RankOrder/rig(_:)``); the pump passes them on unread.
public protocol PumpRig: AnyObject {
  /// Obeys an order of its own kind.
  ///
  /// - Returns: What the pump is held to from now on.
  func obey(_ order: [UInt8]) -> PumpTuning
  /// Is told every moment of every transfer.
  func saw(_ moment: TransferTrace)
  /// What it counts; told to the leader as ``RankCounts/rigCount``.
  var count: Int { get }
}

/// What a rig holds its pump to. Nil: what the limits say.
public struct PumpTuning: Equatable, Sendable {
  /// Transfers of one peer that are posted at the same time.
  public var postedMax: Int?
  /// Blocks that one transfer carries.
  public var transferBlocksMax: Int?

  public init(postedMax: Int? = nil, transferBlocksMax: Int? = nil) {
    self.postedMax = postedMax
    self.transferBlocksMax = transferBlocksMax
  }
}

/// How the rig of one rank is made. It stands between the pump and the peers' transport.
public struct PumpRigging: Sendable {
  /// The rig, and the transport that the pump is to use in place of `peers`.
  public let make:
    @Sendable (_ peers: any Transport, _ target: BlockRegion, _ rank: Int) -> (
      rig: any PumpRig, peers: any Transport
    )

  public init(
    _ make:
      @escaping @Sendable (_ peers: any Transport, _ target: BlockRegion, _ rank: Int) -> (
        rig: any PumpRig, peers: any Transport
      )
  ) {
    self.make = make
  }
}

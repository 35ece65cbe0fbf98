/// A rank's pool as its store announces it to peers.
public struct RankPool: Equatable, Codable, Sendable {
  /// The serving agent's, framed.
  public let metadata: [UInt8]
  /// Of slot 0, in the memory of the process that is read from.
  public let address: UInt64
  public let slotCount: Int
  public let blockBytes: Int

  public init(metadata: [UInt8], address: UInt64, slotCount: Int, blockBytes: Int) {
    self.metadata = metadata
    self.address = address
    self.slotCount = slotCount
    self.blockBytes = blockBytes
  }
}

/// A store's side of a handshake. The pools are only there for an equal fingerprint.
public struct Introduction: Equatable, Sendable {
  public let incarnation: Incarnation
  public let name: PeerName
  public let fingerprint: Fingerprint
  public let pools: [RankPool]
  public let process: Int32

  public init(
    incarnation: Incarnation, name: PeerName, fingerprint: Fingerprint, pools: [RankPool],
    process: Int32
  ) {
    self.incarnation = incarnation
    self.name = name
    self.fingerprint = fingerprint
    self.pools = pools
    self.process = process
  }
}

public import KVConnector
internal import RemoteG2Core

/// What only demonstrations, benchmarks and fault runs ask for. Called on the step thread.
extension RemoteG2Connector {
  /// Lets the ranks' transfers go wrong, where the worker was started for it.
  public func inject(_ fault: TransferFault?, ranks: [Int]) {
    orderRigs(RigOrder.inject(fault, ranks: ranks).bytes)
  }

  public func setTracing(_ isOn: Bool) { orderRigs(RigOrder.trace(isOn).bytes) }

  /// Holds the peers' transfers of these ranks (nil: of all) to a rate; nil: to none.
  public func setPace(_ bytesPerSecond: Double?, transferBlocks: Int?, ranks: [Int]? = nil) {
    let most = settings.transferBlocksMax
    let blocks = max(1, min(transferBlocks ?? most, most))
    let time = bytesPerSecond.map { rate in
      Duration.nanoseconds(
        Int64(clamping: Double(blocks * settings.blockBytes) / rate * 1e9))
    }
    expectTransfers(of: blocks, toTake: time ?? .zero)
    orderRigs(
      RigOrder.pace(bytesPerSecond: bytesPerSecond, transferBlocks: blocks, ranks: ranks).bytes)
  }
}

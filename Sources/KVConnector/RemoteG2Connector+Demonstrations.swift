public import KVTransfer
internal import RemoteG2Core

/// What only demonstrations, benchmarks and fault runs ask for.
extension RemoteG2Connector {
  /// Lets the ranks' transfers go wrong, where the worker was started for it.
  public func inject(_ fault: TransferFault?, ranks: [Int]) {
    orders.append(.inject(fault: fault?.rawValue, ranks: ranks))
  }

  public func setTracing(_ isOn: Bool) { orders.append(.trace(isOn)) }

  public func setPace(_ bytesPerSecond: Double?, transferBlocks: Int?, ranks: [Int]? = nil) {
    settings.paceBytesPerSecond = bytesPerSecond
    let most = min(
      settings.limits.transferBlocksMax, settings.limits.transferBytesMax / settings.blockBytes)
    settings.transferBlocks = max(1, min(transferBlocks ?? most, most))
    orders.append(
      .pace(
        bytesPerSecond: bytesPerSecond, transferBlocks: settings.transferBlocks, ranks: ranks))
  }
}

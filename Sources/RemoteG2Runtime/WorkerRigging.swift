package import KVConnector
package import KVTransfer

/// What a demonstration fastens to a worker. One that serves has none.
package struct WorkerRigging: Sendable {
  /// To the pump of each rank.
  package let pump: PumpRigging
  /// Between the connector and its control client.
  package let control: @Sendable (any SourceControl) -> any SourceControl

  package init(
    pump: PumpRigging,
    control: @escaping @Sendable (any SourceControl) -> any SourceControl = { $0 }
  ) {
    self.pump = pump
    self.control = control
  }
}

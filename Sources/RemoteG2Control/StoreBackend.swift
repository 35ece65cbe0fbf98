package import RemoteG2Core

/// What a store answers its peers. Every call returns at once: a store never computes and never waits.
package protocol StoreBackend: Sendable {
  /// Nil while the agent that serves peers is still being made.
  func introduce(to fingerprint: Fingerprint) -> Introduction?
  func resolve(_ keys: [BlockKey], as lease: LeaseID, ttl: Duration?) -> ResolveAnswer
  func renew(_ lease: LeaseID, ttl: Duration?) -> RenewAnswer
  func confirm(_ lease: LeaseID) -> ConfirmAnswer
  func release(_ lease: LeaseID) -> ReleaseAnswer
  func stats() -> (Incarnation, StoreStats)
}

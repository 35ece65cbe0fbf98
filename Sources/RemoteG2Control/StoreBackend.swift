package import RemoteG2Core

/// What a store answers its peers. Every call returns at once, and may come from any thread.
package protocol StoreBackend: Sendable {
  /// The store's side of a handshake, without pools when the fingerprints differ or there is no NIXL here.
  ///
  /// - Returns: Nil while the agent that serves peers is still being made: the peer is to come again.
  func introduce(to fingerprint: Fingerprint) -> Introduction?
  /// Pins the longest sealed prefix of `keys` under a lease that the caller has named. No `ttl`: the default.
  func resolve(_ keys: [BlockKey], as lease: LeaseID, ttl: Duration?) -> ResolveAnswer
  func renew(_ lease: LeaseID, ttl: Duration?) -> RenewAnswer
  /// How many leading blocks of the lease's grant have kept their bytes. Answered for a while after its end.
  func confirm(_ lease: LeaseID) -> ConfirmAnswer
  func release(_ lease: LeaseID) -> ReleaseAnswer
  /// Who answers, and what it holds.
  func stats() -> (Incarnation, StoreStats)
}

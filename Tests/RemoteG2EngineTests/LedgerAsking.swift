import RemoteG2Core

extension StoreLedger {
  /// Asks under a name that was not used before.
  mutating func resolve(
    _ keys: [BlockKey], ttl: Duration?, at now: LocalInstant
  ) -> ResolveAnswer {
    let lease = LeaseID(
      serial: 1 << 40 + stats.granted, owner: incarnation, holder: Incarnation(high: 1, low: 1))
    return resolve(keys, as: lease, ttl: ttl, at: now)
  }
}

/// The leases an engine holds at its peers' stores. Each is renewed from its grant to its release. A release
/// is sent until the store answers it, at most `releaseAttemptsMax` times.
///
/// A lease is released by the name its holder gave it, so one whose grant never came is ended too.
package struct LeaseKeeper: Equatable, Sendable {
  package enum Order: Equatable, Sendable {
    case renew(SourceID, LeaseID)
    case release(SourceID, LeaseID)
    /// The source said that it is over: nothing more is read under it.
    case tellEnded(SourceID, LeaseID)
  }

  private struct Held: Equatable, Sendable {
    let source: SourceID
    var ttl: Duration
    /// Nil while a renewal is under way.
    var renewAt: LocalInstant?
  }

  private struct Releasing: Equatable, Sendable {
    let source: SourceID
    var attempts: Int
    /// Nil while a release is under way.
    var retryAt: LocalInstant?
  }

  /// However short a lease a peer grants, renewing it must not spin.
  private static let renewalMin: Duration = .milliseconds(10)

  private let limits: Limits
  private var held: [LeaseID: Held] = [:]
  private var releasing: [LeaseID: Releasing] = [:]
  /// A demonstration's switch: what a network that loses every renewal would do.
  package var dropsRenewals = false

  package init(limits: Limits) { self.limits = limits }

  // MARK: Events

  package mutating func granted(_ grant: Grant, by source: SourceID, at now: LocalInstant) {
    // Its release was ordered before its grant came.
    guard releasing[grant.lease] == nil else { return }
    held[grant.lease] = Held(
      source: source, ttl: grant.ttl, renewAt: now + max(grant.ttl / 3, Self.renewalMin))
  }

  /// The fetch is over, or its question was given up.
  package mutating func released(
    _ lease: LeaseID, by source: SourceID, at now: LocalInstant
  ) -> [Order] {
    held[lease] = nil
    guard releasing[lease] == nil else { return [] }
    releasing[lease] = Releasing(source: source, attempts: 1, retryAt: nil)
    return [.release(source, lease)]
  }

  /// - Parameter answer: Nil: none came.
  package mutating func renewalAnswered(
    _ lease: LeaseID, _ answer: RenewAnswer?, at now: LocalInstant
  ) -> [Order] {
    // It was released while its renewal was under way.
    guard let current = held[lease] else { return [] }
    switch answer {
    case .renewed(let ttl):
      held[lease]?.ttl = ttl
      held[lease]?.renewAt = now + max(ttl / 3, Self.renewalMin)
      return []
    case .gone:
      held[lease] = nil
      return [.tellEnded(current.source, lease)]
    case nil:
      held[lease]?.renewAt = now + max(current.ttl / 3, Self.renewalMin)
      return []
    }
  }

  /// - Parameter isHeard: The store answered, whatever it said.
  package mutating func releaseAnswered(_ lease: LeaseID, isHeard: Bool, at now: LocalInstant) {
    guard let current = releasing[lease] else { return }
    if isHeard || current.attempts >= limits.releaseAttemptsMax {
      releasing[lease] = nil
    } else {
      releasing[lease]?.retryAt = now + limits.breakerBackoffMin * (1 << current.attempts)
    }
  }

  /// Its leases ended with it.
  package mutating func sourceDied(_ source: SourceID) {
    held = held.filter { $0.value.source != source }
    releasing = releasing.filter { $0.value.source != source }
  }

  package mutating func timePassed(at now: LocalInstant) -> [Order] {
    guard let next = nextDeadline, next <= now else { return [] }
    var orders: [Order] = []
    for (lease, current) in held.sorted(by: { $0.key.serial < $1.key.serial }) {
      guard let at = current.renewAt, at <= now else { continue }
      if dropsRenewals {
        held[lease]?.renewAt = now + max(current.ttl / 3, Self.renewalMin)
      } else {
        held[lease]?.renewAt = nil
        orders.append(.renew(current.source, lease))
      }
    }
    for (lease, current) in releasing.sorted(by: { $0.key.serial < $1.key.serial }) {
      guard let at = current.retryAt, at <= now else { continue }
      releasing[lease]?.retryAt = nil
      releasing[lease]?.attempts += 1
      orders.append(.release(current.source, lease))
    }
    return orders
  }

  // MARK: Queries

  package var nextDeadline: LocalInstant? {
    let renewals = held.values.compactMap(\.renewAt).min()
    let releases = releasing.values.compactMap(\.retryAt).min()
    return [renewals, releases].compactMap { $0 }.min()
  }

  /// Leases that are being renewed.
  package var heldCount: Int { held.count }
  /// Leases whose release no store has heard yet.
  package var releasingCount: Int { releasing.count }
}

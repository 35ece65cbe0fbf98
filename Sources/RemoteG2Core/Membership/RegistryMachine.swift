/// A node's part in a registry of members (etcd): it keeps its own entry there, which ends with its lease, and knows
/// those of all others.
///
/// Pure. The shell asks the registry, one call of each kind at a time, and tells what it said. While the registry is
/// gone what it said last counts: the node's entry may end there, and it is put back when the registry is.
package struct RegistryMachine: Sendable {
  package typealias Lease = Int64
  package typealias Revision = Int64

  package enum Order: Equatable, Sendable {
    /// Answered by ``granted(_:lasts:at:)``.
    case grant(lasts: Duration)
    /// Answered by ``entered(_:at:)``.
    case enter(Lease)
    /// Answered by ``renewed(lasts:at:)``.
    case renew(Lease)
    /// Answered by ``listed(_:at:_:)``.
    case list
    /// Answered by ``changed(_:)`` again and again, until it fails or ends.
    case watch(after: Revision)
    /// Members are these, besides this node.
    case found([Membership.Place])
    case tell(String)
  }

  package enum Call: Equatable, Sendable { case own, others }

  /// What became of this node's entry.
  package enum Entry: Equatable, Sendable {
    case there
    /// Somebody of its name is at another address.
    case taken(by: String)
  }

  /// An entry of the registry; nil text: it has gone.
  package struct Change: Equatable, Sendable {
    package let name: String
    package let text: String?

    package init(name: String, text: String?) {
      self.name = name
      self.text = text
    }
  }

  private enum Own: Equatable {
    case wanting(at: LocalInstant), asking, entered(renewAt: LocalInstant)
  }
  private enum Others: Equatable { case wanting(at: LocalInstant), asking, watching }

  private let name: PeerName
  private let limits: Limits
  private var own: Own
  private var lease: Lease?
  private var lasts: Duration = .zero
  private var others: Others
  private var entries: [String: String] = [:]
  private var pauses: (own: Duration, others: Duration)
  private var told = ""

  package init(name: PeerName, limits: Limits, from now: LocalInstant) {
    self.name = name
    self.limits = limits
    own = .wanting(at: now)
    others = .wanting(at: now)
    pauses = (limits.ownRetryMin, limits.ownRetryMin)
  }

  // MARK: Time

  package var nextDeadline: LocalInstant? {
    var due: [LocalInstant] = []
    switch own {
    case .wanting(let at), .entered(let at): due.append(at)
    case .asking: break
    }
    if case .wanting(let at) = others { due.append(at) }
    return due.min()
  }

  package mutating func timePassed(at now: LocalInstant) -> [Order] {
    var orders: [Order] = []
    switch own {
    case .wanting(let at) where at <= now:
      own = .asking
      orders.append(lease.map { .enter($0) } ?? .grant(lasts: limits.registryLease))
    case .entered(let at) where at <= now:
      guard let lease else { preconditionFailure("an entry has a lease") }
      own = .asking
      orders.append(.renew(lease))
    case .wanting, .entered, .asking: break
    }
    if case .wanting(let at) = others, at <= now {
      others = .asking
      orders.append(.list)
    }
    return orders
  }

  /// A call was not answered, or by nonsense.
  package mutating func failed(_ call: Call, because reason: String, at now: LocalInstant)
    -> [Order]
  {
    switch call {
    case .own:
      own = .wanting(at: now + pauses.own)
      // It may have ended meanwhile: a new one costs as little.
      lease = nil
      pauses.own = min(pauses.own * 2, limits.registryRetryMax)
    case .others:
      others = .wanting(at: now + pauses.others)
      pauses.others = min(pauses.others * 2, limits.registryRetryMax)
    }
    return tell("the registry does not answer: \(reason); members stay as they are")
  }

  // MARK: This node's entry

  /// Often enough that one call may fail.
  private var renewEvery: Duration { lasts / 3 }

  package mutating func granted(_ lease: Lease, lasts: Duration, at now: LocalInstant) -> [Order] {
    self.lease = lease
    self.lasts = lasts
    return [.enter(lease)]
  }

  package mutating func entered(_ entry: Entry, at now: LocalInstant) -> [Order] {
    switch entry {
    case .there:
      own = .entered(renewAt: now + renewEvery)
      pauses.own = limits.ownRetryMin
      return tell("this node is in the registry")
    case .taken(let text):
      // Its lease ends by itself, and so does that of somebody who has died.
      own = .wanting(at: now + limits.registryRetryMax)
      lease = nil
      return tell(
        "another node named \(name) is in the registry, at \(text): names are unique in a fleet")
    }
  }

  /// - Parameter lasts: Nil: the lease has ended, and the entry with it.
  package mutating func renewed(lasts: Duration?, at now: LocalInstant) -> [Order] {
    guard let lasts else {
      lease = nil
      own = .wanting(at: now)
      return timePassed(at: now)
    }
    self.lasts = lasts
    own = .entered(renewAt: now + renewEvery)
    return []
  }

  // MARK: Those of others

  package mutating func listed(_ all: [Change], at revision: Revision, _ now: LocalInstant)
    -> [Order]
  {
    entries = [:]
    note(all)
    others = .watching
    pauses.others = limits.ownRetryMin
    return found() + [.watch(after: revision)]
  }

  /// It has been watched for long enough: what it says is looked at as a whole again.
  package mutating func watchEnded(at now: LocalInstant) -> [Order] {
    others = .wanting(at: now)
    return timePassed(at: now)
  }

  package mutating func changed(_ changes: [Change]) -> [Order] {
    note(changes)
    return found()
  }

  private mutating func note(_ changes: [Change]) {
    for change in changes {
      // A registry that others fill, too, has its limit like everything.
      guard let text = change.text,
        entries[change.name] != nil || entries.count < limits.registryEntriesMax
      else {
        entries[change.name] = nil
        continue
      }
      entries[change.name] = text
    }
  }

  private mutating func found() -> [Order] {
    var places: [Membership.Place] = []
    var orders: [Order] = []
    for (name, text) in entries.sorted(by: { $0.key < $1.key }) where name != self.name.text {
      guard let place = HostAndPort(text), (1..<65535).contains(place.port),
        (1...32).contains(name.utf8.count)
      else {
        orders += tell(
          "the registry's entry \(name.prefix(40)) is no HOST:PORT: \(text.prefix(40))")
        continue
      }
      places.append(
        Membership.Place(
          name: PeerName(name), address: StreamAddress(host: place.host, port: place.port + 1)))
    }
    return [.found(places)] + orders
  }

  /// Not twice in a row.
  private mutating func tell(_ what: String) -> [Order] {
    guard what != told else { return [] }
    told = what
    return [.tell(what)]
  }
}

/// What members announce, and what they are told.
extension NodeCore {
  // MARK: Who they are

  /// One more member.
  ///
  /// - Parameter isNamed: It must have that name; otherwise whoever answers at its address is meant.
  package mutating func admit(_ member: PeerName, isNamed: Bool = true) {
    guard members[member] == nil else { return }
    members[member] = MemberState(isNamed: isNamed)
  }

  /// It is a member no more: what it announced counts no more. What it is sending now may still come.
  package mutating func dismiss(_ member: PeerName) {
    forget(member)
    members[member] = nil
  }

  /// Another member that is there and says that it is this one, or has its name.
  private func namesake(of member: PeerName, _ welcome: StreamWelcome) -> MemberRefusal? {
    for (name, other) in members.sorted(by: { $0.key < $1.key })
    where name != member && [.watched, .doubted].contains(other.standing) {
      if other.node == welcome.node { return .twice(name) }
      if other.saidName == welcome.name { return .sharesName(welcome.name, with: name) }
    }
    return nil
  }

  // MARK: Their feeds

  /// A member's feed is open: what it announced before is forgotten.
  ///
  /// - Parameter after: How long it took to connect and to be welcomed.
  package mutating func watched(
    _ member: PeerName, as welcome: StreamWelcome, after: Duration
  ) -> MemberRefusal? {
    guard let state = members[member] else { return .unknown }
    forget(member)
    let refusal: MemberRefusal? =
      welcome.node == node
      ? .itself
      : state.isNamed && welcome.name != member
        ? .named(welcome.name)
        : welcome.name == name
          ? .sharesName(name, with: "this node") : namesake(of: member, welcome)
    if let refusal {
      members[member]?.standing = .refused(refusal.reason(at: "its address"))
      return refusal
    }
    members[member]?.node = welcome.node
    members[member]?.saidName = welcome.name
    members[member]?.standing = .watched
    members[member]?.pools = []
    // A later one may have waited until a stopped node went on; once it has answered, its answers say more.
    if members[member]?.firstByteAfter == nil { members[member]?.noteFirstByte(after: after) }
    return nil
  }

  /// - Returns: False when its feed makes no sense and must begin anew.
  package mutating func heard(_ message: StreamMessage, from member: PeerName) -> Bool {
    // One that has just left may still be saying something.
    guard members[member] != nil else { return false }
    if members[member]?.standing == .doubted { members[member]?.standing = .watched }
    switch message {
    case .snapshot(let keys, _): index.snapshot(keys, of: member)
    case .changes(let number, let changes):
      guard index.change(changes, number: number, of: member) else { return false }
      noteHeard(changes)
    case .pools(let pools): members[member]?.pools = pools
    case .beat: break
    default: return false
    }
    return true
  }

  /// Its feed has ended, or could not be opened.
  package mutating func lost(_ member: PeerName, because reason: String?) {
    forget(member)
    members[member]?.pools = []
    members[member]?.standing = reason.map { .refused($0) } ?? .away
  }

  /// Its feed begins anew, or has ended: our copies of what it had may be the last.
  private mutating func forget(_ member: PeerName) {
    index.forget(member)
    noteLost()
  }

  /// What keeps this node's engines from sharing with a member, if something does: its first pool that differs
  /// from ours, where none is alike.
  package func mismatch(with member: PeerName) -> Fingerprint.Mismatch? {
    guard let theirs = members[member]?.pools, let other = theirs.first,
      let ours = pools.sorted(by: { $0.key < $1.key }).first?.value.terms,
      !pools.values.contains(where: { theirs.contains($0.terms) })
    else { return nil }
    return ours.mismatch(with: other)
  }

  // MARK: Our feed

  /// What one watcher is to be told next.
  package enum FeedAnswer: Equatable, Sendable {
    case say(StreamMessage)
    case upToDate
    /// It was too slow, or came when too many keys had to be listed: it is cut off.
    case tooSlow
  }

  package mutating func next(for watcher: inout FeedWatcher) -> FeedAnswer {
    if watcher.poolsVersion != poolsVersion {
      watcher.poolsVersion = poolsVersion
      return .say(.pools(pools.sorted { $0.key < $1.key }.map(\.value.terms)))
    }
    if watcher.number == nil { watcher.number = feed.number }
    if let scan = watcher.scan {
      // The first pool that is not scanned; those that came since are told by their changes.
      guard let (number, pool) = pools.filter({ $0.key >= scan.pool }).min(by: { $0.key < $1.key })
      else {
        watcher.scan = nil
        return .say(.snapshot([], isLast: true))
      }
      let first = number == scan.pool ? scan.slot : 0
      let end = first + FeedWatcher.slotsPerPage
      let keys = pool.ledger.pool.sealedKeys(in: first..<end)
      watcher.scan =
        end < pool.ledger.pool.slotCount
        ? (number, end) : (PoolNumber(number.value + 1), 0)
      return .say(.snapshot(keys, isLast: false))
    }
    switch feed.next(after: watcher.number ?? 0) {
    case .upToDate:
      watchersWaiting = true
      return .upToDate
    case .forgotten: return .tooSlow
    case .batch(let number, let changes):
      watcher.number = number
      return .say(.changes(number: number, changes))
    }
  }

  // MARK: Serving

  /// Whether another member may be sent blocks.
  package mutating func serveBegins(
    _ hello: StreamHello
  ) -> Result<PoolNumber, ServeRefusal> {
    guard let terms = hello.terms else { return .failure(.notForBlocks) }
    if let number = pools.first(where: { $0.value.terms == terms })?.key { return .success(number) }
    let ours = pools.sorted { $0.key < $1.key }.first?.value.terms
    guard let mismatch = ours?.mismatch(with: terms) else { return .failure(.noPool) }
    return .failure(.mismatch(mismatch))
  }

  package func poolNumber(of terms: PoolTerms) -> PoolNumber? {
    pools.first { $0.value.terms == terms }?.key
  }

  /// An answer begins, if there is room for it. A prefix that many want at once is sent to a few, who then have it
  /// for others.
  ///
  /// - Parameter last: The last key of the question.
  package mutating func serves(
    _ last: BlockKey, to reader: PeerName, at now: LocalInstant
  ) -> ServeDecision {
    let all = servedTo[last] ?? []
    // One that takes long counts no more: nobody is to be kept from a prefix by who is slow.
    let others = all.filter { now - $0.since < limits.spreadAge }.map(\.reader)
    guard servedCount < limits.streamsMax, !isLeaving, others.count < limits.answersPerPrefixMax
    else { return .busy(others: others) }
    servedCount += 1
    servedTo[last] = all + [(reader, now)]
    return .begins
  }

  package mutating func served(_ last: BlockKey, to reader: PeerName) {
    servedCount -= 1
    guard var others = servedTo[last],
      let place = others.firstIndex(where: { $0.reader == reader })
    else {
      preconditionFailure("an answer ends that did not begin")
    }
    others.remove(at: place)
    servedTo[last] = others.isEmpty ? nil : others
  }

  /// The next blocks of an answer, as many as fit a window, pinned until ``sent(_:count:in:)``.
  ///
  /// - Returns: Nothing when the next block is not here.
  package mutating func serve(
    _ keys: [BlockKey], from first: Int, in number: PoolNumber
  ) -> [ServedBlock] {
    guard let bytes = terms(of: number)?.bytesOfAllRanks else { return [] }
    let most = max(1, limits.streamWindowBytes / bytes)
    let blocks = inPool(number) { $0.serve(keys, from: first, atMost: most) } ?? []
    servedPins += blocks.count
    return blocks
  }

  /// A window is over.
  ///
  /// - Parameter count: How many of its blocks were sent whole.
  package mutating func sent(_ blocks: [ServedBlock], count: Int, in number: PoolNumber) {
    servedPins -= blocks.count
    // The pool may have gone meanwhile; the sender kept its memory.
    guard let bytes = terms(of: number)?.bytesOfAllRanks else { return }
    inPool(number) { $0.unpin(blocks.map(\.slot)) }
    bytesServed += UInt64(count * bytes)
  }
}

/// Why a member's feed is not listened to.
package enum MemberRefusal: Equatable, Sendable {
  case unknown
  case named(PeerName)
  case itself
  /// It is another member too.
  case twice(PeerName)
  /// Names are unique in a fleet.
  case sharesName(PeerName, with: PeerName)

  /// - Parameter address: Where it listens.
  package func reason(at address: String) -> String {
    switch self {
    case .unknown: "it is no member"
    case .named(let name): "the node at \(address) is named \(name): correct --member"
    case .itself: "\(address) is this node itself: correct --member"
    case .twice(let other): "the node at \(address) is \(other) too: name it once"
    case .sharesName(let name, let other):
      "the node at \(address) is named \(name), as \(other) is: names are unique in a fleet"
    }
  }
}

/// Whether another member is sent what it asks for.
package enum ServeDecision: Equatable, Sendable {
  case begins
  /// Not now; these are being sent the same.
  case busy(others: [PeerName])
}

/// Why another member is sent nothing.
package enum ServeRefusal: Error, Equatable, Sendable, CustomStringConvertible {
  case notForBlocks
  /// No engine has attached here yet.
  case noPool
  case mismatch(Fingerprint.Mismatch)

  package var description: String {
    switch self {
    case .notForBlocks: "the connection did not say which pool it is for"
    case .noPool: "no engine has attached to this node yet"
    case .mismatch(let mismatch): mismatch.description
    }
  }
}

/// How far one watcher of a feed has come.
package struct FeedWatcher: Sendable {
  static let slotsPerPage = 2048
  /// What it has heard last; nil before the first.
  var number: UInt64?
  /// The next slots to be listed; nil: all have been.
  var scan: (pool: PoolNumber, slot: Int)? = (PoolNumber(0), 0)
  var poolsVersion: UInt64?

  package init() {}
}

/// What members announce, and what they are told.
extension NodeCore {
  // MARK: Their feeds

  /// A member's feed is open: what it announced before is forgotten.
  ///
  /// - Parameter after: How long it took to connect and to be welcomed.
  package mutating func watched(
    _ member: PeerName, as welcome: StreamWelcome, after: Duration
  ) -> MemberRefusal? {
    guard members[member] != nil else { return .unknown }
    forget(member)
    guard welcome.name == member else {
      let reason = "the node at its address is named \(welcome.name)"
      members[member]?.standing = .refused(reason)
      return .named(welcome.name)
    }
    guard welcome.node != node else {
      members[member]?.standing = .refused("its address is this node's own")
      return .itself
    }
    members[member]?.node = welcome.node
    members[member]?.standing = .watched
    members[member]?.pools = []
    // A later one may have waited until a stopped node went on; once it has answered, its answers say more.
    if members[member]?.firstByteAfter == nil { members[member]?.noteFirstByte(after: after) }
    return nil
  }

  /// - Returns: False when its feed makes no sense and must begin anew.
  package mutating func heard(_ message: StreamMessage, from member: PeerName) -> Bool {
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

  /// An answer begins: whether there is room for it.
  package mutating func serves() -> Bool {
    guard servedCount < limits.streamsMax else { return false }
    servedCount += 1
    return true
  }
  package mutating func served() { servedCount -= 1 }

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

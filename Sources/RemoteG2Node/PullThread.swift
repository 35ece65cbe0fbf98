internal import ContentDigest
internal import LocalStore
internal import OSThreads
internal import RemoteG2Core

/// Receives blocks from other members into slots of the node's own pools.
///
/// This thread alone reads its sockets and closes them, so that when it says that it has stopped, nothing
/// writes a slot any more.
final class PullThread: Sendable {
  private let thread: TurningThread

  init(
    _ board: NodeBoard, as identity: StreamIdentity, members: [PeerName: StreamAddress],
    limits: Limits
  ) {
    thread = TurningThread("pull", bell: board.pullBell) { thread in
      PullLoop(board, identity, members, limits).run { thread.isOver }
    }
  }

  func stop() { thread.stop() }
}

private final class PullLoop {
  private struct Route: Hashable {
    let member: PeerName
    let terms: PoolTerms
  }

  private let board: NodeBoard
  private let identity: StreamIdentity
  private let members: [PeerName: StreamAddress]
  private let limits: Limits
  private var pulls: [StreamID: Pull] = [:]
  private var routes: [StreamID: Route] = [:]
  private var idle: [Route: [StreamSocket]] = [:]

  init(
    _ board: NodeBoard, _ identity: StreamIdentity, _ members: [PeerName: StreamAddress],
    _ limits: Limits
  ) {
    self.board = board
    self.identity = identity
    self.members = members
    self.limits = limits
  }

  func run(until isOver: () -> Bool) {
    var wakeAt: LocalInstant?
    while !isOver() {
      for order in board.pullOrders.drain() { carryOut(order) }
      var hasMore = false
      let now = MonotonicClock.now()
      let lateness = wakeAt.map { max(.zero, now - $0) } ?? .zero
      for stream in pulls.keys.sorted() {
        guard let pull = pulls[stream] else { continue }
        switch pull.turn(lateness: lateness) {
        case .more: hasMore = true
        case .waiting: break
        case .ended(let end): finish(stream, end)
        }
      }
      wakeAt = nil
      if hasMore { continue }
      let due = pulls.values.map(\.stallsAt).min()
      let until = due ?? MonotonicClock.now() + .seconds(1)
      let heard = board.pullBell.wait(
        until: until,
        hearing: pulls.values.map(\.socket.descriptor)
          + idle.values.flatMap { $0.map(\.descriptor) },
        writable: pulls.values.filter(\.wantsToSend).map(\.socket.descriptor))
      // Who is woken by nothing was meant to wake then.
      if heard == .nothing { wakeAt = until }
      if heard == .descriptor { dropClosedIdle() }
    }
    for stream in pulls.keys.sorted() { finish(stream, .broken) }
  }

  private func carryOut(_ order: NodeBoard.PullOrder) {
    switch order {
    case .cancel(let stream):
      // It may have ended at the same moment.
      guard pulls[stream] != nil else { return }
      finish(stream, .broken, keepsConnection: false)
    case .pull(let stream, let member, let number, let terms, let keys):
      let route = Route(member: member, terms: terms)
      guard let address = members[member], let pools = board.pools(number),
        let (socket, isNew) = connection(route, address)
      else {
        board.advance { core, now in core.ended(stream, .broken, at: now) }
        return
      }
      routes[stream] = route
      pulls[stream] = Pull(
        stream, board, socket: socket, hello: isNew ? hello(terms) : nil, terms: terms,
        pools: pools, keys: keys, limits: limits)
    }
  }

  private func hello(_ terms: PoolTerms) -> StreamHello {
    StreamHello(node: identity.node, name: identity.name, terms: terms)
  }

  private func connection(
    _ route: Route, _ address: StreamAddress
  ) -> (StreamSocket, isNew: Bool)? {
    if let kept = idle[route]?.popLast() { return (kept, false) }
    return StreamSocket.connect(address).map { ($0, true) }
  }

  private func finish(_ stream: StreamID, _ end: PullEnd, keepsConnection: Bool = true) {
    guard let pull = pulls.removeValue(forKey: stream),
      let route = routes.removeValue(forKey: stream)
    else { return }
    // After an answer that ended as it should the connection is good for another.
    if keepsConnection, [.served, .lacking, .busy].contains(end),
      idle[route, default: []].count < limits.streamsIdleMax
    {
      idle[route, default: []].append(pull.socket)
    }
    board.advance { core, now in core.ended(stream, end, at: now) }
  }

  /// An idle connection has nothing to tell but its end.
  private func dropClosedIdle() {
    for (route, sockets) in idle {
      let alive = sockets.filter { socket in
        withUnsafeTemporaryAllocation(byteCount: 1, alignment: 1) { byte in
          socket.receive(into: byte.baseAddress!, atMost: 1) == .nothing
        }
      }
      idle[route] = alive.isEmpty ? nil : alive
    }
  }
}

/// One answer on its way in.
private final class Pull {
  enum Turn {
    case more
    case waiting
    case ended(PullEnd)
  }

  /// What the next bytes are.
  private enum Stage {
    case frame
    /// A block's bytes: which slot they belong into, and how many of them are here.
    case body(position: Int, SlotIndex, UInt32, digests: [Digest128], rank: Int, done: Int)
    /// Of a block that is here already.
    case skipping(left: Int)
  }

  /// Bytes received before others have their turn.
  private static let bytesPerTurn = 1 << 20
  /// Received at once: what is digested right afterwards is still in the processor's cache.
  private static let bytesPerPiece = 256 << 10

  let socket: StreamSocket
  private let stream: StreamID
  private let board: NodeBoard
  private let terms: PoolTerms
  private let pools: [PoolMemory]
  private let keys: [BlockKey]
  private let limits: Limits
  private var outgoing = Outgoing()
  private var intake = FrameIntake()
  private var stage = Stage.frame
  /// Of the block that is arriving: of the ranks that are whole, and of the one that is not.
  private var found: [Digest128] = []
  private var running = StreamingDigest()
  private var silence: Silence
  private var isWelcomed: Bool

  init(
    _ stream: StreamID, _ board: NodeBoard, socket: StreamSocket, hello: StreamHello?,
    terms: PoolTerms, pools: [PoolMemory], keys: [BlockKey], limits: Limits
  ) {
    self.stream = stream
    self.board = board
    self.socket = socket
    self.terms = terms
    self.pools = pools
    self.keys = keys
    self.limits = limits
    silence = Silence(since: MonotonicClock.now())
    isWelcomed = hello == nil
    if let hello { outgoing.add(.hello(hello)) }
    for first in stride(from: 0, to: keys.count, by: StreamCodec.keysPerPage) {
      let end = min(first + StreamCodec.keysPerPage, keys.count)
      outgoing.add(.ask(keys: Array(keys[first..<end]), isLast: end == keys.count))
    }
  }

  var wantsToSend: Bool { !outgoing.isEmpty }
  var stallsAt: LocalInstant { silence.since + limits.streamStallMin }

  /// Sends and receives a bounded piece of what there is.
  ///
  /// - Parameter lateness: How much later this is than the wait before it was meant to end.
  func turn(lateness: Duration) -> Turn {
    while !outgoing.isEmpty {
      switch outgoing.send(to: socket) {
      case .bytes: continue
      case .closed: return end(.broken)
      case .nothing: break
      }
      break
    }
    var budget = Self.bytesPerTurn
    var heard = false
    while budget > 0 {
      switch receive(&budget) {
      case .more: heard = true
      case .waiting:
        return judge(heard, lateness)
      case .ended(let how): return end(how)
      }
    }
    silence = Silence(since: MonotonicClock.now())
    return .more
  }

  private func judge(_ heard: Bool, _ lateness: Duration) -> Turn {
    let now = MonotonicClock.now()
    if heard {
      silence = Silence(since: now)
      return .waiting
    }
    let isOver = silence.isOver(
      after: limits.streamStallMin, lateness: lateness, limits, at: now)
    return isOver ? end(.stalled) : .waiting
  }

  /// What was being written is written by nobody any more: the core gives its slot up.
  private func end(_ how: PullEnd) -> Turn { .ended(how) }

  /// - Returns: `more` after bytes came.
  private func receive(_ budget: inout Int) -> Turn {
    switch stage {
    case .frame: return receiveFrame(&budget)
    case .skipping(let left):
      let outcome = withUnsafeTemporaryAllocation(
        byteCount: min(left, 64 << 10), alignment: 16
      ) { socket.receive(into: $0.baseAddress!, atMost: $0.count) }
      guard case .bytes(let count) = outcome else {
        return outcome == .closed ? .ended(.broken) : .waiting
      }
      budget -= count
      stage = left == count ? .frame : .skipping(left: left - count)
      if left == count {
        board.advance { core, now in core.arrived(stream, digests: nil, at: now) }
      }
      return .more
    case .body(let position, let slot, let generation, let digests, let rank, let done):
      let most = min(terms.blockBytes - done, max(budget, 1), Self.bytesPerPiece)
      let memory = pools[rank].pointer(to: slot) + done
      let outcome = socket.receive(into: memory, atMost: most)
      guard case .bytes(let count) = outcome else {
        return outcome == .closed ? .ended(.broken) : .waiting
      }
      budget -= count
      // Of the slot's own bytes, which nobody else writes.
      running.add(UnsafeRawBufferPointer(start: memory, count: count))
      let isRankWhole = done + count == terms.blockBytes
      if isRankWhole {
        found.append(running.value())
        running.begin(key: keys[position], rank: rank + 1)
      }
      stage = .body(
        position: position, slot, generation, digests: digests,
        rank: isRankWhole ? rank + 1 : rank, done: isRankWhole ? 0 : done + count)
      guard isRankWhole, rank + 1 == terms.rankCount else { return .more }
      stage = .frame
      return prove(slot, generation, digests)
    }
  }

  private func receiveFrame(_ budget: inout Int) -> Turn {
    do throws(WireError) {
      let before = intake.wanted
      let (message, outcome) = try socket.receive(&intake)
      guard let message else {
        if outcome == .closed { return .ended(.broken) }
        return intake.wanted < before ? .more : .waiting
      }
      budget -= StreamCodec.lengthBytes
      return said(message)
    } catch { return .ended(.invalid) }
  }

  private func said(_ message: StreamMessage) -> Turn {
    switch message {
    case .welcome where !isWelcomed:
      isWelcomed = true
      return .more
    case .refused: return .ended(.refused)
    case .block(let position, let digests) where isWelcomed:
      guard digests.count == terms.rankCount else { return .ended(.invalid) }
      switch board.core.withLock({ $0.arriving(stream, position: position) }) {
      case .stop: return .ended(.unneeded)
      case .invalid: return .ended(.invalid)
      case .skip:
        stage = .skipping(left: terms.bytesOfAllRanks)
      case .write(let slot, let generation):
        // On every rank, before any rank's bytes change.
        for pool in pools { pool.words.beginWriting(slot, generation) }
        found.removeAll(keepingCapacity: true)
        running.begin(key: keys[position], rank: 0)
        stage = .body(position: position, slot, generation, digests: digests, rank: 0, done: 0)
      }
      return .more
    case .end(let how) where isWelcomed:
      switch how {
      case .served: return .ended(.served)
      case .lacking: return .ended(.lacking)
      case .busy: return .ended(.busy)
      }
    default: return .ended(.invalid)
    }
  }

  /// All bytes are here: they are the block if they have the digests that came with them.
  private func prove(_ slot: SlotIndex, _ generation: UInt32, _ digests: [Digest128]) -> Turn {
    guard found == digests else {
      board.advance { core, now in core.arrived(stream, digests: nil, at: now) }
      return .ended(.invalid)
    }
    for pool in pools { pool.words.makeReadable(slot, generation) }
    board.advance { core, now in core.arrived(stream, digests: found, at: now) }
    return .more
  }
}

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
    _ board: NodeBoard, as identity: StreamIdentity, limits: Limits, keeper: TLSKeeper?
  ) {
    thread = TurningThread("pull", bell: board.pullBell) { thread in
      PullLoop(board, identity, limits, keeper).run { thread.isOver }
    }
  }

  func stop() { thread.stop() }
}

private final class PullLoop {
  private struct Route: Hashable {
    let member: PeerName
    let address: StreamAddress
    let terms: PoolTerms
  }

  private let board: NodeBoard
  private let identity: StreamIdentity
  private let limits: Limits
  private let keeper: TLSKeeper?
  private var pulls: [StreamID: Pull] = [:]
  private var routes: [StreamID: Route] = [:]
  private var idle: [Route: [StreamSocket]] = [:]

  init(
    _ board: NodeBoard, _ identity: StreamIdentity, _ limits: Limits, _ keeper: TLSKeeper?
  ) {
    self.keeper = keeper
    self.board = board
    self.identity = identity
    self.limits = limits
  }

  func run(until isOver: () -> Bool) {
    var wakeAt: LocalInstant?
    while !isOver() {
      board.turned("pull")
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
      guard !hasMore else { continue }
      let due = pulls.values.map(\.stallsAt).min()
      let until = due ?? MonotonicClock.now() + .seconds(1)
      let heard = board.pullBell.wait(
        until: until,
        hearing: pulls.values.map(\.socket.descriptor)
          + idle.values.flatMap { $0.map(\.descriptor) },
        writable: pulls.values.filter(\.wantsToSend).map(\.socket.descriptor))
      // Whatever woke it, it was to be awake by then.
      wakeAt = until
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
    case .pull(let stream, let member, let number, let terms, let keys, let patience):
      // It may have left as it was asked.
      guard let place = board.place(of: member), let pools = board.pools(number),
        let (socket, isNew) = connection(place, terms)
      else {
        board.advance { core, now in core.ended(stream, .broken, at: now) }
        board.localBell.ring()
        return
      }
      routes[stream] = Route(member: member, address: place.address, terms: terms)
      pulls[stream] = Pull(
        stream, board, socket: socket, pools: pools,
        machine: PullMachine(
          hello: isNew ? hello(terms) : nil, terms: terms, keys: keys, patience: patience,
          limits: limits, at: MonotonicClock.now()))
    }
  }

  private func hello(_ terms: PoolTerms) -> StreamHello {
    StreamHello(node: identity.node, name: identity.name, terms: terms)
  }

  private func connection(
    _ place: Membership.Place, _ terms: PoolTerms
  ) -> (StreamSocket, isNew: Bool)? {
    let route = Route(member: place.name, address: place.address, terms: terms)
    if let kept = idle[route]?.popLast() { return (kept, false) }
    return StreamSocket.connect(place, keeper).map { ($0, true) }
  }

  private func finish(_ stream: StreamID, _ end: PullEnd, keepsConnection: Bool = true) {
    guard let pull = pulls.removeValue(forKey: stream),
      let route = routes.removeValue(forKey: stream)
    else { return }
    // After an answer that ended as it should the connection is good for another.
    if keepsConnection, end.keepsConnection, pull.isDrained,
      idle[route, default: []].count < limits.streamsIdleMax
    {
      idle[route, default: []].append(pull.socket)
    }
    board.advance { core, now in core.ended(stream, end, others: pull.others, at: now) }
    // It looks again at a time of which nothing that it is told to do tells it.
    board.localBell.ring()
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

/// One answer on its way in: the shell of a ``PullMachine``.
private final class Pull {
  enum Turn {
    case more
    case waiting
    case ended(PullEnd)
  }

  /// Bytes received before others have their turn.
  private static let bytesPerTurn = 1 << 20
  /// Received at once: what is digested right afterwards is still in the processor's cache.
  private static let bytesPerPiece = 256 << 10
  private static let droppedPerPiece = 64 << 10
  /// Received beyond a frame, or beyond a block, with it: the next frames, mostly.
  private static let aheadMax = 4096

  let socket: StreamSocket
  private let stream: StreamID
  private let board: NodeBoard
  private let pools: [PoolMemory]
  private var machine: PullMachine
  /// Of the block that is arriving: of the ranks that are whole, and of the one that is not.
  private var found: [Digest128] = []
  private var running = StreamingDigest()
  private var hasBegun = false
  /// What was received ahead, and how much of it has been taken.
  private let ahead = UnsafeMutableRawBufferPointer.allocate(
    byteCount: Pull.aheadMax, alignment: 64)
  private var (aheadFirst, aheadEnd) = (0, 0)

  init(
    _ stream: StreamID, _ board: NodeBoard, socket: StreamSocket, pools: [PoolMemory],
    machine: PullMachine
  ) {
    self.stream = stream
    self.board = board
    self.socket = socket
    self.pools = pools
    self.machine = machine
  }

  deinit { ahead.deallocate() }

  /// Whether the connection is good for another question: nothing came that nobody asked for.
  var isDrained: Bool { aheadFirst == aheadEnd }
  var wantsToSend: Bool { socket.waitsToSend(!machine.outgoing.isEmpty) }
  var stallsAt: LocalInstant { machine.stallsAt }
  var others: [PeerName] { machine.others }

  /// Sends and receives a bounded piece of what there is.
  ///
  /// - Parameter lateness: How much later this is than the wait before it was meant to end.
  func turn(lateness: Duration) -> Turn {
    if socket.send(&machine.outgoing) == .closed { return .ended(.broken) }
    var budget = Self.bytesPerTurn
    while budget > 0 {
      let (outcome, step) = receive(budget)
      switch outcome {
      case .closed: return .ended(.broken)
      case .nothing:
        let hasHeard = budget < Self.bytesPerTurn
        if hasHeard { heard() }
        let judged = hasHeard ? .more : machine.judge(lateness: lateness, at: MonotonicClock.now())
        if case .ended(let end) = judged { return .ended(end) }
        return .waiting
      case .bytes(let count): budget -= count
      }
      if case .ended(let end) = follow(step) {
        heard()
        return .ended(end)
      }
    }
    heard()
    return .more
  }

  private func heard() {
    if let pace = machine.heard(at: MonotonicClock.now()) {
      let received = machine.received
      board.advance { core, now in
        core.paced(stream, bytesPerSecond: pace, received: received, at: now)
      }
    }
    guard !hasBegun, let after = machine.firstByteAfter else { return }
    hasBegun = true
    board.withCore { $0.answerBegan(stream, after: after) }
  }

  private func receive(_ budget: Int) -> (StreamSocket.Outcome, PullMachine.Step) {
    if isDrained {
      let outcome: StreamSocket.Outcome
      switch machine.need {
      case .frame:
        (aheadFirst, aheadEnd) = (0, 0)
        outcome = socket.receive(into: ahead.baseAddress!, atMost: ahead.count)
        if case .bytes(let count) = outcome { aheadEnd = count }
      case .dropped(let count):
        return drop(count)
      case .body(let slot, let rank, let offset, let count):
        return receiveBody(slot, rank, offset, count, budget)
      }
      guard case .bytes = outcome else { return (outcome, .more) }
    }
    return takeAhead()
  }

  /// Takes of what was received ahead as much as is needed next.
  private func takeAhead() -> (StreamSocket.Outcome, PullMachine.Step) {
    let piece = UnsafeRawBufferPointer(rebasing: ahead[aheadFirst..<aheadEnd])
    switch machine.need {
    case .frame(let wanted):
      let count = min(wanted, piece.count)
      aheadFirst += count
      return (.bytes(count), machine.took(UnsafeRawBufferPointer(rebasing: piece[..<count])))
    case .dropped(let wanted):
      let count = min(wanted, piece.count)
      aheadFirst += count
      return (.bytes(count), machine.took(count))
    case .body(let slot, let rank, let offset, let wanted):
      let count = min(wanted, piece.count)
      aheadFirst += count
      let memory = pools[rank].pointer(to: slot) + offset
      memory.copyMemory(from: piece.baseAddress!, byteCount: count)
      return (.bytes(count), took(memory, count))
    }
  }

  private func drop(_ count: Int) -> (StreamSocket.Outcome, PullMachine.Step) {
    var step = PullMachine.Step.more
    let outcome = socket.receive(atMost: min(count, Self.droppedPerPiece)) {
      step = machine.took($0.count)
    }
    return (outcome, step)
  }

  private func receiveBody(
    _ slot: SlotIndex, _ rank: Int, _ offset: Int, _ count: Int, _ budget: Int
  ) -> (StreamSocket.Outcome, PullMachine.Step) {
    let memory = pools[rank].pointer(to: slot) + offset
    let most = min(count, budget, Self.bytesPerPiece)
    (aheadFirst, aheadEnd) = (0, 0)
    // The end of a rank's bytes, and what follows it, in one call.
    let outcome =
      most == count
      ? socket.receive(into: memory, atMost: most, then: ahead)
      : socket.receive(into: memory, atMost: most)
    guard case .bytes(let all) = outcome else { return (outcome, .more) }
    let received = min(all, most)
    aheadEnd = all - received
    return (.bytes(received), took(memory, received))
  }

  /// Of a slot's own bytes, which nobody else writes.
  private func took(_ memory: UnsafeMutableRawPointer, _ count: Int) -> PullMachine.Step {
    running.add(UnsafeRawBufferPointer(start: memory, count: count))
    return machine.took(count)
  }

  /// Carries out what follows from bytes that came.
  private func follow(_ step: PullMachine.Step) -> PullMachine.Step {
    switch step {
    case .more, .ended: return step
    case .arriving(let position):
      let arrival = board.withCore { $0.arriving(stream, position: position) }
      if case .write(let slot, let generation) = arrival {
        // On every rank, before any rank's bytes change.
        for pool in pools { pool.words.beginWriting(slot, generation) }
        found.removeAll(keepingCapacity: true)
        running.begin(key: machine.keys[position], rank: 0)
      }
      return machine.place(arrival)
    case .rankWhole:
      found.append(running.value())
      running.begin(key: machine.keys[machine.position], rank: found.count)
      return .more
    case .blockWhole(let slot, let generation, let digests):
      found.append(running.value())
      guard found == digests else {
        board.advance { core, now in core.arrived(stream, digests: nil, at: now) }
        return .ended(.invalid)
      }
      for pool in pools { pool.words.makeReadable(slot, generation) }
      board.advance { core, now in core.arrived(stream, digests: found, at: now) }
      return .more
    case .skipped:
      board.advance { core, now in core.arrived(stream, digests: nil, at: now) }
      return .more
    }
  }
}

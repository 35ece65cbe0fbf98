internal import Glibc
package import OSThreads
package import RemoteG2Core

/// The thread that serves a store's own engines: sockets in, ``LocalDesk`` decides, pools are written.
///
/// Nobody else writes a pool or touches the desk. The ledger is shared with the peers' service, under one
/// lock that is held for microseconds.
package final class LocalService: Sendable {
  private struct Status {
    var isStopping = false
    /// Since when no engine's leader is connected; nil while one is.
    var aloneSince: LocalInstant?
    var copies: UInt64 = 0
  }

  private let listener: LocalListener
  private let bell = EventBell()
  private let status: Guarded<Status>
  private let thread = Guarded<OSThread?>(nil)

  /// Listens, and serves from now on.
  package init(
    at path: String, store: Incarnation, fingerprint: Fingerprint, pools: [PoolMemory],
    ledger: Guarded<StoreLedger>, limits: Limits
  ) throws(PoolError) {
    precondition(pools.count == Int(fingerprint.rankCount), "one pool a rank")
    listener = try LocalListener(path)
    status = Guarded(Status(aloneSince: MonotonicClock.now()))
    let desk = LocalDesk(
      store: store, fingerprint: fingerprint, slotCount: pools[0].slotCount,
      blockBytes: pools[0].blockBytes, limits: limits)
    let started = OSThread.start("local") { [self] in
      let loop = LocalLoop(desk: desk, pools: pools, ledger: ledger, listener: listener)
      serve(loop)
    }
    thread.withLock { $0 = started }
  }

  /// How long no engine has been connected.
  package func timeAlone(at now: LocalInstant) -> Duration {
    status.withLock { $0.aloneSince.map { now - $0 } ?? .zero }
  }
  /// Blocks copied into the pools, ever.
  package var copyCount: UInt64 { status.withLock { $0.copies } }

  /// Ends the thread and every connection.
  package func stop() {
    status.withLock { $0.isStopping = true }
    bell.ring()
    thread.withLock { thread -> OSThread? in
      defer { thread = nil }
      return thread
    }?.join()
  }

  private func serve(_ loop: LocalLoop) {
    var descriptors = loop.descriptors
    while true {
      let hasMore = loop.turn()
      let (leaders, copies, now) = (loop.leaderCount, loop.copyCount, MonotonicClock.now())
      let isStopping = status.withLock { status in
        status.aloneSince = leaders > 0 ? nil : status.aloneSince ?? now
        status.copies = copies
        return status.isStopping
      }
      if isStopping { return }
      if hasMore { continue }
      if loop.descriptorsChanged { descriptors = loop.descriptors }
      _ = bell.wait(until: now + .seconds(1), hearing: descriptors)
    }
  }
}

/// What the thread of a ``LocalService`` owns.
private final class LocalLoop {
  /// Messages taken from one connection before the next has its turn.
  private static let messagesPerTurn = 64
  private static let copiesPerTurn = 8

  private var desk: LocalDesk
  private let pools: [PoolMemory]
  private let writers: [PoolWriter.Pool]
  private let ledger: Guarded<StoreLedger>
  private let listener: LocalListener
  private var sockets: [ConnectionID: LocalSocket] = [:]
  private var staging: [ConnectionID: StagingMemory] = [:]
  /// With the memory that each reads, which may outlive its connection.
  private var copies: [(copy: StageCopy, sources: [StagingMemory?])] = []
  private(set) var copyCount: UInt64 = 0
  private(set) var descriptorsChanged = true

  init(
    desk: LocalDesk, pools: [PoolMemory], ledger: Guarded<StoreLedger>, listener: LocalListener
  ) {
    self.desk = desk
    self.pools = pools
    self.ledger = ledger
    self.listener = listener
    writers = pools.map {
      PoolWriter.Pool(base: $0.base, blockBytes: $0.blockBytes, words: $0.words)
    }
  }

  var leaderCount: Int { desk.leaderCount }

  var descriptors: [Int32] {
    descriptorsChanged = false
    return [listener.descriptor] + sockets.values.map(\.descriptor)
  }

  /// Does a bounded piece of all there is to do.
  ///
  /// - Returns: Whether there is more.
  func turn() -> Bool {
    var hasMore = false
    while let socket = listener.accept() {
      guard let id = desk.joined() else { continue }
      sockets[id] = socket
      descriptorsChanged = true
    }
    for id in sockets.keys.sorted() { hasMore = read(id) || hasMore }
    for _ in 0..<min(Self.copiesPerTurn, copies.count) { copyNext() }
    return hasMore || !copies.isEmpty
  }

  private func read(_ id: ConnectionID) -> Bool {
    for _ in 0..<Self.messagesPerTurn {
      guard let socket = sockets[id] else { return false }
      let now = MonotonicClock.now()
      switch socket.receive() {
      case .nothing: return false
      case .closed:
        close(id)
        return false
      case .malformed: perform(desk.malformed(id))
      case .message(let message, _):
        perform(ledger.withLock { desk.received(message, from: id, &$0, at: now) })
      }
    }
    return true
  }

  private func perform(_ actions: [LocalAction]) {
    for action in actions {
      switch action {
      case .send(let id, let message): send(message, to: id)
      case .welcomeRank(let id, let rank, let welcome): welcomeRank(id, rank, welcome)
      case .copy(let copy):
        copies.append((copy, copy.sources.map { staging[$0.connection] }))
      case .want(let wanted):
        // A store of its own pool only: what is not here is nowhere.
        let now = MonotonicClock.now()
        perform(ledger.withLock { desk.answer(wanted, &$0, at: now) })
      case .close(let id): close(id)
      }
    }
  }

  /// One that does not read is as good as gone.
  private func send(_ message: LocalMessage, to id: ConnectionID, _ descriptors: [Int32] = []) {
    guard let socket = sockets[id] else { return }
    if !socket.send(message, descriptors: descriptors) { close(id) }
  }

  private func close(_ id: ConnectionID) {
    guard sockets.removeValue(forKey: id) != nil else { return }
    staging[id] = nil
    descriptorsChanged = true
    let now = MonotonicClock.now()
    perform(ledger.withLock { desk.left(id, &$0, at: now) })
  }

  private func welcomeRank(_ id: ConnectionID, _ rank: Int, _ welcome: LocalWelcome) {
    do throws(PoolError) {
      let memory = try StagingMemory(
        slotCount: welcome.stagingSlots, blockBytes: welcome.blockBytes)
      staging[id] = memory
      send(.welcome(welcome), to: id, [pools[rank].readOnlyDescriptor, memory.descriptor])
    } catch {
      send(.refused("\(error)"), to: id)
      close(id)
    }
  }

  private func copyNext() {
    let (copy, memories) = copies.removeFirst()
    PoolWriter.begin(copy, writers)
    let sources = zip(memories, copy.sources).map { memory, source in
      memory.map { UnsafeRawPointer($0.pointer(to: source.slot)) }
    }
    // The memory of a connection that ended meanwhile is kept by nobody else.
    let digests = withExtendedLifetime(memories) {
      PoolWriter.finish(copy, from: sources, writers)
    }
    copyCount += 1
    perform(ledger.withLock { desk.copied(copy, digests: digests, &$0) })
  }
}

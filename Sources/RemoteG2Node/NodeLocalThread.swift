internal import Foundation
internal import LocalStore
internal import OSThreads
internal import RemoteG2Core

/// Serves a node's own engines: sockets in, the core decides, pools are made and written from what is staged.
final class NodeLocalThread: Sendable {
  private let thread: TurningThread

  init(
    _ board: NodeBoard, _ configuration: NodeConfiguration
  ) throws(PoolError) {
    let listener = try LocalListener(configuration.socketPath, group: configuration.group)
    thread = TurningThread("local", bell: board.localBell) { thread in
      NodeLocalLoop(board, listener, configuration).run { thread.isOver }
    }
  }

  func stop() { thread.stop() }
}

private final class NodeLocalLoop {
  /// Messages taken from one connection before the next has its turn.
  private static let messagesPerTurn = 64
  private static let copiesPerTurn = 4

  private struct Copy {
    let copy: StageCopy
    let pool: PoolNumber
    /// What each rank staged, which may outlive its connection.
    let sources: [StagingMemory?]
  }

  private let board: NodeBoard
  private let listener: LocalListener
  private let configuration: NodeConfiguration
  private var sockets: [ConnectionID: LocalSocket] = [:]
  private var staging: [ConnectionID: StagingMemory] = [:]
  private var copies: [Copy] = []
  private var writers: [PoolNumber: [PoolWriter.Pool]] = [:]
  private let isStopping = Guarded(false)

  init(
    _ board: NodeBoard, _ listener: LocalListener, _ configuration: NodeConfiguration
  ) {
    self.configuration = configuration
    self.board = board
    self.listener = listener
    // What was taken over.
    let memory = board.memory.withLock { $0 }
    writers = memory.mapValues(Self.writers)
    for (number, pool) in memory { findPages(pool.ranks, of: number) }
  }

  private static func writers(_ pool: KeptPool) -> [PoolWriter.Pool] {
    pool.ranks.map { PoolWriter.Pool(base: $0.base, blockBytes: $0.blockBytes, words: $0.words) }
  }

  func run(until isOver: () -> Bool) {
    while !isOver() {
      board.turned("local")
      let hasMore = turn()
      let now = MonotonicClock.now()
      let due = board.withCore { $0.nextDeadline }
      if let due, due <= now {
        board.advance { core, now in core.timePassed(at: now) }
        continue
      }
      if hasMore { continue }
      let most: Duration = listener.isExhausted ? .milliseconds(100) : .seconds(1)
      _ = board.localBell.wait(
        until: min(due ?? now + most, now + most),
        hearing: (listener.isExhausted ? [] : [listener.descriptor])
          + sockets.values.map(\.descriptor))
    }
    isStopping.withLock { $0 = true }
  }

  /// Does a bounded piece of all there is to do.
  ///
  /// - Returns: Whether there is more.
  private func turn() -> Bool {
    var hasMore = false
    while let socket = listener.accept() {
      let now = MonotonicClock.now()
      guard let id = board.withCore({ $0.joined(at: now) }) else { continue }
      sockets[id] = socket
    }
    for id in sockets.keys.sorted() { hasMore = read(id) || hasMore }
    performAll()
    for _ in 0..<min(Self.copiesPerTurn, copies.count) { copyNext() }
    performAll()
    return hasMore || !copies.isEmpty
  }

  private func read(_ id: ConnectionID) -> Bool {
    for _ in 0..<Self.messagesPerTurn {
      guard let socket = sockets[id] else { return false }
      switch socket.receive() {
      case .nothing: return false
      case .closed:
        close(id)
        return false
      case .malformed: board.advance { core, _ in core.malformed(id) }
      case .message(.report(let number), _): report(number, to: id)
      case .message(let message, _):
        board.advance { core, now in core.received(message, from: id, at: now) }
      }
      // What it orders about this connection comes before what is read from it next.
      performAll()
    }
    return true
  }

  private func performAll() {
    for action in board.localActions.drain() {
      switch action {
      case .local(let action, let pool): perform(action, pool)
      case .makePool(let number, let terms, let slots): makePool(number, terms, slots)
      case .pull, .cancel, .feedChanged, .startAgent, .endAgent:
        preconditionFailure("\(action) is another thread's")
      }
    }
  }

  private func perform(_ action: LocalAction, _ pool: PoolNumber?) {
    switch action {
    case .send(let id, let message):
      // An engine's leader is welcome.
      if case .welcome = message {
        send(message, to: id, [board.known.readOnlyDescriptor])
      } else {
        send(message, to: id)
      }
    case .welcomeRank(let id, let rank, let welcome):
      welcomeRank(id, rank, welcome, pool)
    case .copy(let copy):
      guard let pool else { preconditionFailure("a copy is into a pool") }
      copies.append(
        Copy(copy: copy, pool: pool, sources: copy.sources.map { staging[$0.connection] }))
    case .want: preconditionFailure("what is wanted is the core's business")
    case .close(let id): close(id)
    }
  }

  private func makePool(_ number: PoolNumber, _ terms: PoolTerms, _ slots: Int) {
    // A pool that made room for this one goes first.
    let kept = board.withCore { $0.poolNumbers }
    writers = writers.filter { kept.contains($0.key) }
    let dropped = board.memory.withLock { memory in
      let dropped = memory.filter { !kept.contains($0.key) }
      memory = memory.filter { kept.contains($0.key) }
      return dropped.values.map(\.files)
    }
    for files in dropped { configuration.keeper?.drop(files) }
    let id = configuration.draw()
    let pool: KeptPool
    do throws(PoolError) {
      pool = try KeptPool(
        terms, slotCount: slots, id: id, hasTable: configuration.keeper != nil)
    } catch {
      board.advance { core, now in
        core.poolMade(number, .failure(PoolFailure(reason: "\(error)")), at: now)
      }
      return
    }
    if let keeper = configuration.keeper, !keeper.keep(pool) {
      configuration.log("the blocks of \(number) will not outlive this process")
    }
    writers[number] = Self.writers(pool)
    board.memory.withLock { $0[number] = pool }
    findPages(pool.ranks, of: number)
    board.advance { core, now in core.poolMade(number, .success(id), at: now) }
  }

  /// On a thread of its own, so that nobody waits for it; of no lower priority, because it holds the process's
  /// memory map while it is at it.
  private func findPages(
    _ pools: [PoolMemory], _ staging: [StagingMemory] = [], of number: PoolNumber? = nil
  ) {
    let (isStopping, board) = (isStopping, board)
    _ = OSThread.start("pages") {
      for memory in staging { memory.findPages { isStopping.withLock { $0 } } }
      for pool in pools {
        pool.findPages {
          // Or it has made room for another.
          isStopping.withLock { $0 } || number.map { board.pools($0) == nil } ?? false
        }
      }
    }
  }

  private func report(_ number: UInt64, to id: ConnectionID) {
    let report = board.withCore { $0.report }
    guard let json = try? JSONEncoder().encode(report) else { return close(id) }
    guard let socket = sockets[id] else { return }
    if !socket.sendReport(number, String(decoding: json, as: UTF8.self)) { close(id) }
  }

  /// One that does not read is as good as gone.
  private func send(_ message: LocalMessage, to id: ConnectionID, _ descriptors: [Int32] = []) {
    guard let socket = sockets[id] else { return }
    if !socket.send(message, descriptors: descriptors) { close(id) }
  }

  private func close(_ id: ConnectionID) {
    guard sockets.removeValue(forKey: id) != nil else { return }
    staging[id] = nil
    board.advance { core, now in core.left(id, at: now) }
  }

  private func welcomeRank(
    _ id: ConnectionID, _ rank: Int, _ welcome: LocalWelcome, _ number: PoolNumber?
  ) {
    guard let number, let pools = board.pools(number) else { return close(id) }
    do throws(PoolError) {
      let memory = try StagingMemory(
        slotCount: welcome.stagingSlots, blockBytes: welcome.blockBytes)
      staging[id] = memory
      findPages([], [memory])
      send(.welcome(welcome), to: id, [pools[rank].readOnlyDescriptor, memory.descriptor])
    } catch {
      send(.refused("\(error)"), to: id)
      close(id)
    }
  }

  private func copyNext() {
    let next = copies.removeFirst()
    guard let writers = writers[next.pool] else { return }
    PoolWriter.begin(next.copy, writers)
    let sources = zip(next.sources, next.copy.sources).map { memory, source in
      memory.map { UnsafeRawPointer($0.pointer(to: source.slot)) }
    }
    // The memory of a connection that ended meanwhile is kept by nobody else.
    let digests = withExtendedLifetime(next.sources) {
      PoolWriter.finish(next.copy, from: sources, writers)
    }
    board.advance { core, _ in core.copied(next.copy, in: next.pool, digests: digests) }
  }
}

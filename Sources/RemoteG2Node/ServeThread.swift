internal import LocalStore
internal import OSThreads
internal import RemoteG2Core

/// Sends other members what they ask for, and the feed to those that watch.
final class ServeThread: Sendable {
  private let thread: TurningThread

  init(_ board: NodeBoard, limits: Limits, listener: StreamListener) {
    let bell = EventBell()
    board.ringWithFeed(bell)
    nonisolated(unsafe) let listener = listener
    thread = TurningThread("serve", bell: bell) { thread in
      ServeLoop(board, limits, listener, bell).run { thread.isOver }
    }
  }

  func stop() { thread.stop() }
}

private final class ServeLoop {
  private let board: NodeBoard
  private let limits: Limits
  private let listener: StreamListener
  private let bell: EventBell
  private var readers: [Int32: Reader] = [:]
  /// How many had more for their reader in the last turn than they could send.
  private var answering = 0
  private static let bytesPerTurn = 4 << 20
  private static let quantumMin = 64 << 10

  init(_ board: NodeBoard, _ limits: Limits, _ listener: StreamListener, _ bell: EventBell) {
    self.board = board
    self.limits = limits
    self.listener = listener
    self.bell = bell
  }

  func run(until isOver: () -> Bool) {
    while !isOver() {
      while let socket = listener.accept() {
        // One too many is closed at once, and counted by nobody but its own side.
        guard readers.count < limits.streamConnectionsMax else { continue }
        readers[socket.descriptor] = Reader(socket, board, limits)
      }
      var hasMore = false
      // So much for all together, so that one more does not wait long for its first byte.
      let quantum = max(Self.quantumMin, Self.bytesPerTurn / max(1, answering))
      answering = 0
      for (descriptor, reader) in readers {
        switch reader.turn(quantum) {
        case .more:
          hasMore = true
          answering += 1
        case .waiting: break
        case .over:
          reader.close()
          readers[descriptor] = nil
        }
      }
      if hasMore { continue }
      let now = MonotonicClock.now()
      let due = readers.values.compactMap { $0.nextLook(after: now) }.min()
      let most: Duration = listener.isExhausted ? .milliseconds(100) : .seconds(1)
      _ = bell.wait(
        until: min(due ?? now + most, now + most),
        hearing: (listener.isExhausted ? [] : [listener.descriptor])
          + readers.values.filter { !$0.isAnswering }.map(\.socket.descriptor),
        writable: readers.values.filter(\.isBlocked).map(\.socket.descriptor))
    }
    for reader in readers.values { reader.close() }
  }
}

/// One connection from another member.
private final class Reader {
  enum Turn { case more, waiting, over }

  private enum Role {
    case stranger
    case forBlocks(PoolTerms)
    /// It has said that it is for no blocks.
    case forFeed
    case watcher(FeedWatcher)
  }

  /// The most that is sent before others have their turn.
  private static let quantumMax = 1 << 20

  let socket: StreamSocket
  private let board: NodeBoard
  private let limits: Limits
  private var role = Role.stranger
  private var intake = FrameIntake()
  private var outgoing = Outgoing()
  /// The question that is being asked, or answered.
  private var keys: [BlockKey] = []
  private(set) var isAnswering = false
  /// The pinned blocks that are being sent, and which of them is next.
  private var window: [ServedBlock] = []
  private var windowNext = 0
  /// Of the block after the window.
  private var position = 0
  /// Of the answer that is under way: the pool may have been replaced since the one before.
  private var pool: (number: PoolNumber, memory: [PoolMemory])?
  /// Where in that block the next byte is; nil: its frame comes first.
  private var cursor: (rank: Int, done: Int)?
  private(set) var isBlocked = false
  /// Since when it has been told less than there is, and how much it has taken since then.
  private var slowSince: LocalInstant?
  private var takenSince = 0
  private var saidAt = MonotonicClock.now()
  private let cameAt = MonotonicClock.now()
  /// One that does not say who it is.
  private static let helloMax: Duration = .seconds(10)
  /// The answer in `outgoing` is the last thing that it hears.
  private var isLast = false

  init(_ socket: StreamSocket, _ board: NodeBoard, _ limits: Limits) {
    self.socket = socket
    self.board = board
    self.limits = limits
  }

  func nextLook(after now: LocalInstant) -> LocalInstant? {
    if let slowSince { return slowSince + limits.readerStallMax }
    switch role {
    case .watcher: return max(now, saidAt + limits.feedBeat)
    case .stranger: return cameAt + Self.helloMax
    case .forBlocks, .forFeed: return nil
    }
  }

  /// - Parameter quantum: Bytes to send at most.
  func turn(_ quantum: Int) -> Turn {
    let budget = min(quantum, Self.quantumMax)
    if case .stranger = role, MonotonicClock.now() - cameAt >= Self.helloMax { return .over }
    // A new question is read when the last one is answered, and what was said of it is sent.
    while !isAnswering, !isLast, outgoing.isEmpty {
      do throws(WireError) {
        let (message, outcome) = try socket.receive(&intake)
        if let message {
          guard received(message) else { return .over }
          continue
        }
        if outcome == .closed { return .over }
      } catch { return .over }
      break
    }
    return sendSome(budget)
  }

  /// Lets go of all that it holds.
  func close() {
    drop()
    if isAnswering { board.core.withLock { $0.served() } }
    isAnswering = false
  }

  private func drop() {
    guard let pool, !window.isEmpty else { return }
    board.core.withLock { $0.sent(window, count: windowNext, in: pool.number) }
    window = []
    windowNext = 0
    cursor = nil
  }

  // MARK: Questions

  /// - Returns: False for what no member says: it is cut off.
  private func received(_ message: StreamMessage) -> Bool {
    switch (message, role) {
    case (.hello(let hello), .stranger): return greeted(hello)
    case (.watch, .forFeed):
      role = .watcher(FeedWatcher())
      return true
    case (.ask(let page, let isLast), .forBlocks):
      guard keys.count + page.count <= limits.blocksPerFetchMax, !page.isEmpty else { return false }
      keys += page
      if isLast { begin() }
      return true
    default: return false
    }
  }

  private func greeted(_ hello: StreamHello) -> Bool {
    guard hello.version == StreamMessage.version else {
      return refuse(
        "stream protocol \(hello.version); this node speaks \(StreamMessage.version): run both "
          + "from one release")
    }
    let (welcome, answer) = board.core.withLock { core in
      (StreamWelcome(node: core.node, name: core.name), core.serveBegins(hello))
    }
    switch answer {
    case .success:
      guard let terms = hello.terms else { return false }
      role = .forBlocks(terms)
    case .failure(.notForBlocks): role = .forFeed
    case .failure(let refusal): return refuse(refusal.description)
    }
    outgoing.add(.welcome(welcome))
    return true
  }

  private func refuse(_ reason: String) -> Bool {
    outgoing.add(.refused(reason))
    isLast = true
    return true
  }

  private func begin() {
    isAnswering = true
    position = 0
    pool = nil
    if case .forBlocks(let terms) = role,
      let number = board.core.withLock({ $0.poolNumber(of: terms) }),
      let memory = board.pools(number)
    {
      pool = (number, memory)
    }
    guard board.core.withLock({ $0.serves() }) else {
      outgoing.add(.end(.busy))
      keys = []
      isAnswering = false
      return
    }
  }

  // MARK: Answers

  private func sendSome(_ budget: Int) -> Turn {
    var budget = budget
    isBlocked = false
    while budget > 0 {
      if !outgoing.isEmpty {
        // A block's bytes follow its frame: they travel together.
        switch outgoing.send(to: socket, hasMore: cursor != nil) {
        case .bytes(let count): note(count, &budget)
        case .nothing: return blocked()
        case .closed: return .over
        }
        continue
      }
      if isLast { return .over }
      if windowNext < window.count {
        switch send(window[windowNext], &budget) {
        case .bytes: continue
        case .nothing: return blocked()
        case .closed: return .over
        }
      }
      guard prepare() else {
        slowSince = nil
        return .waiting
      }
    }
    return .more
  }

  private func note(_ count: Int, _ budget: inout Int) {
    budget -= count
    takenSince += count
    saidAt = MonotonicClock.now()
    if takenSince >= limits.readerProgressBytes { slowSince = nil }
  }

  /// There is more for it than it takes now.
  private func blocked() -> Turn {
    isBlocked = true
    let now = MonotonicClock.now()
    guard let since = slowSince else {
      slowSince = now
      takenSince = 0
      return .waiting
    }
    return now - since >= limits.readerStallMax ? .over : .waiting
  }

  private func send(_ block: ServedBlock, _ budget: inout Int) -> StreamSocket.Outcome {
    guard case .forBlocks(let terms) = role, let pool else { return .closed }
    guard let (rank, done) = cursor else {
      outgoing.add(.block(position: block.position, digests: block.digests))
      cursor = (0, 0)
      return .bytes(0)
    }
    let outcome = socket.send(
      UnsafeRawPointer(pool.memory[rank].pointer(to: block.slot)) + done,
      min(terms.blockBytes - done, max(budget, 1)))
    guard case .bytes(let count) = outcome else { return outcome }
    note(count, &budget)
    guard done + count == terms.blockBytes else {
      cursor = (rank, done + count)
      return outcome
    }
    guard rank + 1 == terms.rankCount else {
      cursor = (rank + 1, 0)
      return outcome
    }
    cursor = nil
    windowNext += 1
    if windowNext == window.count { drop() }
    return outcome
  }

  /// Finds out what to send next.
  ///
  /// - Returns: False when there is nothing now.
  private func prepare() -> Bool {
    switch role {
    case .forBlocks:
      guard isAnswering else { return false }
      if let pool {
        window = board.core.withLock { $0.serve(keys, from: position, in: pool.number) }
      }
      position += window.count
      guard window.isEmpty else { return true }
      outgoing.add(.end(position == keys.count ? .served : .lacking))
      keys = []
      pool = nil
      isAnswering = false
      board.core.withLock { $0.served() }
      return true
    case .watcher(var watcher):
      let answer = board.core.withLock { $0.next(for: &watcher) }
      role = .watcher(watcher)
      switch answer {
      case .say(let message): outgoing.add(message)
      case .tooSlow: isLast = true
      case .upToDate:
        guard MonotonicClock.now() - saidAt >= limits.feedBeat else { return false }
        outgoing.add(.beat)
      }
      return true
    case .stranger, .forFeed: return false
    }
  }
}

internal import Glibc
internal import LocalStore
internal import OSThreads
internal import RemoteG2Core

/// Sends other members what they ask for, and the feed to those that watch.
final class ServeThread: Sendable {
  private let thread: TurningThread

  /// - Parameters:
  ///   - number: Among those of its node.
  ///   - listener: Its own.
  ///   - keeper: Of the node's certificate; nil: nothing is encrypted.
  init(
    _ number: Int, _ board: NodeBoard, limits: Limits, listener: StreamListener,
    keeper: TLSKeeper?, log: @escaping @Sendable (String) -> Void
  ) {
    let bell = EventBell()
    board.ringWithFeed(bell)
    let name = "serve \(number)"
    nonisolated(unsafe) let listener = listener
    thread = TurningThread(name, bell: bell) { thread in
      ServeLoop(name, board, limits, listener, bell, keeper, log).run { thread.isOver }
    }
  }

  func stop() { thread.stop() }
}

private final class ServeLoop {
  private let name: String
  private let board: NodeBoard
  private let limits: Limits
  private let listener: StreamListener
  private let bell: EventBell
  private let keeper: TLSKeeper?
  private let log: @Sendable (String) -> Void
  private var readers: [Int32: Reader] = [:]
  /// How many had more for their reader in the last turn than they could send.
  private var answering = 0
  private static let bytesPerTurn = 4 << 20
  private static let quantumMin = 64 << 10

  init(
    _ name: String, _ board: NodeBoard, _ limits: Limits, _ listener: StreamListener,
    _ bell: EventBell, _ keeper: TLSKeeper?, _ log: @escaping @Sendable (String) -> Void
  ) {
    self.keeper = keeper
    self.log = log
    self.name = name
    self.board = board
    self.limits = limits
    self.listener = listener
    self.bell = bell
  }

  func run(until isOver: () -> Bool) {
    while !isOver() {
      board.turned(name)
      while let socket = listener.accept(keeper) {
        // One too many is closed at once, and counted by nobody but its own side.
        guard board.admitsReader(limits) else { continue }
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
          tellRefusal(of: reader.socket)
          reader.close()
          readers[descriptor] = nil
          board.readerLeft()
        }
      }
      if hasMore { continue }
      let now = MonotonicClock.now()
      let due = readers.values.compactMap(\.nextLook).min()
      let most: Duration = listener.isExhausted ? .milliseconds(100) : .seconds(1)
      _ = bell.wait(
        until: min(max(due ?? now + most, now), now + most),
        hearing: (listener.isExhausted ? [] : [listener.descriptor])
          + readers.values.filter(\.hears).map(\.socket.descriptor),
        writable: readers.values.filter(\.isBlocked).map(\.socket.descriptor))
    }
    for reader in readers.values { reader.close() }
  }

  /// Why somebody was not let in.
  private func tellRefusal(of socket: StreamSocket) {
    guard let refusal = socket.refusal else { return }
    let now = MonotonicClock.now()
    let isNew = board.withCore { $0.handshakes.note(refusal, limits: limits, at: now) }
    if isNew { log("a connection from \(socket.peerAddress) was refused: \(refusal)") }
  }
}

/// One connection from another member: the shell of a ``ServeMachine``.
private final class Reader {
  enum Turn { case more, waiting, over }

  /// The most that is sent before others have their turn.
  private static let quantumMax = 1 << 20

  let socket: StreamSocket
  private let board: NodeBoard
  private var machine: ServeMachine
  /// Of the pool that is being read, which may be gone from the node by now.
  private var memory: (pool: PoolNumber, ranks: [PoolMemory])?

  init(_ socket: StreamSocket, _ board: NodeBoard, _ limits: Limits) {
    self.socket = socket
    self.board = board
    machine = ServeMachine(limits: limits, at: MonotonicClock.now())
  }

  /// Whether it may say something now; what it says before is left where it is.
  var hears: Bool { machine.wanted != nil }
  var isBlocked: Bool { socket.waitsToSend(machine.isBlocked) }
  var nextLook: LocalInstant? { machine.nextDeadline }

  /// - Parameter quantum: Bytes to send at most.
  func turn(_ quantum: Int) -> Turn {
    if machine.isOverdue(at: MonotonicClock.now()) { return .over }
    while true {
      var heardAll = false
      while !heardAll, let wanted = machine.wanted {
        var isSound = true
        let outcome = socket.receive(atMost: wanted) { piece in
          isSound = board.withCore { machine.took(piece, from: socket.provedNames, &$0) }
        }
        if outcome == .closed || !isSound { return .over }
        heardAll = outcome == .nothing
      }
      let turn = send(min(quantum, Self.quantumMax))
      // What came with the last question may be here already, where no wait hears it.
      guard turn == .waiting, !heardAll, machine.wanted != nil else { return turn }
    }
  }

  private func send(_ quantum: Int) -> Turn {
    switch socket.flush() {
    case .bytes: break
    case .nothing: return machine.blocked(at: MonotonicClock.now()) ? .over : .waiting
    case .closed: return .over
    }
    var budget = quantum
    while budget > 0 {
      let outcome: StreamSocket.Outcome
      switch machine.next() {
      case .over: return .over
      case .idle:
        // A connection that waits for its next question keeps no pool's memory.
        memory = nil
        return .waiting
      case .prepare:
        let now = MonotonicClock.now()
        guard board.withCore({ machine.prepare(&$0, at: now) }) else { return .waiting }
        continue
      case .send: outcome = sendParts(budget)
      }
      let now = MonotonicClock.now()
      switch outcome {
      case .bytes(let count):
        budget -= count
        machine.sent(count, at: now)
      case .nothing: return machine.blocked(at: now) ? .over : .waiting
      case .closed: return .over
      }
    }
    return .more
  }

  /// In one call, however many they are.
  private func sendParts(_ budget: Int) -> StreamSocket.Outcome {
    let parts = machine.parts(atMost: budget)
    let ranks = machine.pool.flatMap { memory(of: $0) }
    return withUnsafeTemporaryAllocation(of: iovec.self, capacity: ServeMachine.partsMax) { list in
      machine.outgoing.withNext { queued in
        machine.frames.withUnsafeBytes { frames in
          var count = 0
          for part in parts {
            switch part {
            case .queued: list[count] = iovec(queued)
            case .frames(let range):
              list[count] = iovec(UnsafeRawBufferPointer(rebasing: frames[range]))
            case .body(let slot, let rank, let offset, let bytes):
              // What this node has no memory of any more it cannot send.
              guard let ranks else { return .closed }
              list[count] = iovec(
                UnsafeRawBufferPointer(
                  start: ranks[rank].pointer(to: slot) + offset, count: bytes))
            }
            count += 1
          }
          return socket.send(UnsafeBufferPointer(rebasing: list[..<count]))
        }
      }
    }
  }

  private func memory(of pool: PoolNumber) -> [PoolMemory]? {
    if let memory, memory.pool == pool { return memory.ranks }
    memory = board.pools(pool).map { (pool, $0) }
    return memory?.ranks
  }

  /// Lets go of all that it holds.
  func close() { board.withCore { machine.close(&$0) } }
}

extension iovec {
  fileprivate init(_ bytes: UnsafeRawBufferPointer) {
    self.init(
      iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
  }
}

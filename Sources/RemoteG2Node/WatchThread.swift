internal import OSThreads
internal import RemoteG2Core

/// Keeps every other member's feed open, and tells the core what it says.
final class WatchThread: Sendable {
  private let thread: TurningThread

  init(
    _ board: NodeBoard, as identity: StreamIdentity, limits: Limits, keeper: TLSKeeper?,
    log: @escaping @Sendable (String) -> Void
  ) {
    thread = TurningThread("watch", bell: board.watchBell) { thread in
      var watches: [Watch] = []
      while !thread.isOver {
        board.turned("watch")
        let now = MonotonicClock.now()
        for change in board.watchOrders.drain() {
          switch change {
          case .joined(let place):
            watches.append(Watch(place, board, identity, limits, keeper, log))
          case .left(let name): watches.removeAll { $0.member == name }
          }
        }
        var hasMore = false
        for index in watches.indices { hasMore = watches[index].turn(at: now) || hasMore }
        guard !hasMore else { continue }
        let due = watches.map(\.nextLook).min() ?? now + .seconds(1)
        _ = board.watchBell.wait(
          until: min(due, now + .seconds(1)),
          hearing: watches.compactMap(\.readable), writable: watches.compactMap(\.writable))
      }
    }
  }

  func stop() { thread.stop() }
}

/// One member's feed: the shell of a ``WatchMachine``.
private struct Watch {
  private let place: Membership.Place
  private let board: NodeBoard
  private let keeper: TLSKeeper?
  private let log: @Sendable (String) -> Void
  private let limits: Limits
  private var machine: WatchMachine
  private var socket: StreamSocket?

  init(
    _ place: Membership.Place, _ board: NodeBoard, _ identity: StreamIdentity, _ limits: Limits,
    _ keeper: TLSKeeper?, _ log: @escaping @Sendable (String) -> Void
  ) {
    self.place = place
    self.board = board
    self.keeper = keeper
    self.limits = limits
    self.log = log
    machine = WatchMachine(
      place.name, isNamed: place.isNamed, at: place.address.description,
      as: StreamHello(node: identity.node, name: identity.name, terms: nil), limits: limits,
      from: MonotonicClock.now())
  }

  var member: PeerName { place.name }
  var readable: Int32? { socket?.descriptor }
  var writable: Int32? {
    guard let socket, socket.waitsToSend(!machine.outgoing.isEmpty) else { return nil }
    return socket.descriptor
  }
  var nextLook: LocalInstant { machine.nextDeadline }

  /// Heard before others have their turn: one that never ends holds up nobody.
  private static let bytesPerTurn = 1 << 20

  /// - Returns: Whether it has more to say now.
  mutating func turn(at now: LocalInstant) -> Bool {
    advance { $0.timePassed(&$1, at: now) }
    var left = Self.bytesPerTurn
    while let current = socket {
      guard left > 0 else { return true }
      if current.send(&machine.outgoing) == .closed {
        ended(current, at: now)
        return false
      }
      let outcome = current.receive(atMost: machine.wanted) { piece in
        advance { $0.took(piece, from: current.provedNames, &$1, at: now) }
      }
      switch outcome {
      case .bytes(let count): left -= count
      case .nothing: return false
      case .closed:
        ended(current, at: now)
        return false
      }
    }
    return false
  }

  private mutating func ended(_ socket: StreamSocket, at now: LocalInstant) {
    guard let refusal = socket.refusal else { return advance { $0.ended(nil, &$1, at: now) } }
    // The machine tells it, once for as long as it stays the same.
    _ = board.withCore { $0.handshakes.note(refusal, limits: limits, at: now) }
    advance { $0.ended(refusal.description, &$1, at: now) }
  }

  private mutating func advance(
    _ event: (inout WatchMachine, inout NodeCore) -> [WatchMachine.Order]
  ) {
    for order in board.withCore({ event(&machine, &$0) }) {
      switch order {
      case .connect:
        socket = StreamSocket.connect(place, keeper)
        if socket == nil { advance { $0.ended(nil, &$1, at: MonotonicClock.now()) } }
      case .close: socket = nil
      case .tell(let what): log(what)
      }
    }
  }
}

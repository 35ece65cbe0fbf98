internal import OSThreads
internal import RemoteG2Core

/// Keeps every other member's feed open, and tells the core what it says.
final class WatchThread: Sendable {
  private let thread: TurningThread

  init(
    _ board: NodeBoard, as identity: StreamIdentity, members: [PeerName: StreamAddress],
    limits: Limits, log: @escaping @Sendable (String) -> Void
  ) {
    let bell = EventBell()
    thread = TurningThread("watch", bell: bell) { thread in
      var watches = members.sorted { $0.key < $1.key }.map {
        Watch($0.key, at: $0.value, board, identity, limits, log)
      }
      while !thread.isOver {
        let now = MonotonicClock.now()
        for index in watches.indices { watches[index].turn(at: now) }
        let due = watches.map(\.nextLook).min() ?? now + .seconds(1)
        _ = bell.wait(
          until: min(due, now + .seconds(1)),
          hearing: watches.compactMap(\.readable), writable: watches.compactMap(\.writable))
      }
    }
  }

  func stop() { thread.stop() }
}

/// One member's feed.
private struct Watch {
  private let member: PeerName
  private let address: StreamAddress
  private let board: NodeBoard
  private let identity: StreamIdentity
  private let limits: Limits
  private let log: @Sendable (String) -> Void
  private var socket: StreamSocket?
  private var intake = FrameIntake()
  private var outgoing = Outgoing()
  private var isWelcomed = false
  private var heardAt = LocalInstant(nanoseconds: 0)
  private var connectAt = LocalInstant(nanoseconds: 0)
  private var pause: Duration
  /// What was last said of it.
  private var told = ""

  init(
    _ member: PeerName, at address: StreamAddress, _ board: NodeBoard, _ identity: StreamIdentity,
    _ limits: Limits, _ log: @escaping @Sendable (String) -> Void
  ) {
    self.member = member
    self.address = address
    self.board = board
    self.identity = identity
    self.limits = limits
    self.log = log
    pause = limits.ownRetryMin
  }

  var readable: Int32? { socket?.descriptor }
  var writable: Int32? { outgoing.isEmpty ? nil : socket?.descriptor }
  var nextLook: LocalInstant { socket == nil ? connectAt : heardAt + limits.feedSilenceMax }

  mutating func turn(at now: LocalInstant) {
    if socket == nil {
      guard connectAt <= now else { return }
      connect(at: now)
    }
    guard let socket else { return }
    while !outgoing.isEmpty {
      switch outgoing.send(to: socket) {
      case .bytes: continue
      case .nothing: break
      case .closed: return lose(nil, at: now)
      }
      break
    }
    while true {
      do throws(WireError) {
        let (message, outcome) = try socket.receive(&intake)
        if let message {
          heardAt = now
          guard said(message, at: now) else { return }
          continue
        }
        if outcome == .closed { return lose(nil, at: now) }
      } catch { return lose("it says what no node says: \(error)", at: now) }
      break
    }
    if now - heardAt >= limits.feedSilenceMax { lose(nil, at: now) }
  }

  private mutating func connect(at now: LocalInstant) {
    heardAt = now
    isWelcomed = false
    intake = FrameIntake()
    outgoing = Outgoing()
    guard let made = StreamSocket.connect(address) else { return lose(nil, at: now) }
    socket = made
    outgoing.add(.hello(StreamHello(node: identity.node, name: identity.name, terms: nil)))
    outgoing.add(.watch)
  }

  /// - Returns: False when the connection has been given up.
  private mutating func said(_ message: StreamMessage, at now: LocalInstant) -> Bool {
    switch message {
    case .welcome(let welcome) where !isWelcomed:
      isWelcomed = true
      switch board.core.withLock({ $0.watched(member, as: welcome, at: now) }) {
      case nil:
        pause = limits.ownRetryMin
        tell("\(member) is connected")
        return true
      case .named(let name)?:
        lose("the node at \(address) is named \(name): correct --member", at: now)
      case .itself?: lose("\(address) is this node itself: correct --member", at: now)
      case .unknown?: lose("it is no member", at: now)
      }
      return false
    case .refused(let reason):
      lose(reason, at: now)
      return false
    case _ where isWelcomed:
      let (isSound, mismatch) = board.core.withLock { core in
        (core.heard(message, from: member), core.mismatch(with: member))
      }
      if case .pools = message, let mismatch {
        tell("\(member) cannot share with this node's engine: \(mismatch)")
      }
      if !isSound { lose("its feed makes no sense", at: now) }
      return isSound
    default:
      lose("it says what no node says", at: now)
      return false
    }
  }

  private mutating func lose(_ reason: String?, at now: LocalInstant) {
    if isWelcomed || reason != nil {
      tell("\(member) is away: \(reason ?? "its connection ended")")
    }
    socket = nil
    isWelcomed = false
    outgoing = Outgoing()
    board.core.withLock { $0.lost(member, because: reason) }
    connectAt = now + pause
    pause = min(pause * 2, limits.ownRetryMax)
  }

  private mutating func tell(_ what: String) {
    guard what != told else { return }
    told = what
    log(what)
  }
}

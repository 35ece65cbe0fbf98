internal import Glibc
internal import KVConnector
internal import LocalStore
package import OSThreads
package import RemoteG2Core

/// The engine's client of its own store and of its peers' stores: the shell of a ``ControlCore``.
///
/// The core decides; here its calls are made as tasks, the own store's socket is read and written by a
/// thread, and the clock is read. The step loop posts requests, drains answers, and reads the state of a
/// peer; it waits for nothing and does no I/O.
package final class ControlClient: SourceControl {
  private struct State {
    var core: ControlCore
    var callers: [PeerName: any PeerCaller] = [:]
    var ownPath: String?
    var isStopping = false
    /// Messages that the core does not know: housekeeping, by number.
    var asked: [UInt64: @Sendable (LocalMessage?) -> Void] = [:]
    var askNext: UInt64 = 1
    /// Of the own store that welcomed us, where it has one.
    var known: KnownKeysMapping?
  }

  package let incarnation: Incarnation
  private let fingerprint: Fingerprint
  private let name: PeerName
  private let limits: Limits
  private let answers: Mailbox<ControlAnswer>
  private let state: Guarded<State>
  private let bell = EventBell()
  /// Never rung.
  private let silence = EventBell()
  /// After it has asked something: for so long only the own store wakes the thread.
  private static let gatherTime: Duration = .microseconds(100)
  /// For the thread that owns the own store's socket. Whoever posts rings, once it holds no lock of the thread's.
  private let ownOrders: Mailbox<OwnStore.Order>
  private let thread = Guarded<OSThread?>(nil)
  /// Told the process and the reason of an own store that this engine cannot use.
  private let onUnusable: @Sendable (Int32, String) -> Void

  package init(
    fingerprint: Fingerprint, name: PeerName, incarnation: Incarnation, limits: Limits,
    answers: Mailbox<ControlAnswer>,
    onUnusable: @escaping @Sendable (Int32, String) -> Void = { _, _ in }
  ) {
    self.fingerprint = fingerprint
    self.name = name
    self.incarnation = incarnation
    self.limits = limits
    self.answers = answers
    self.onUnusable = onUnusable
    state = Guarded(State(core: ControlCore(as: fingerprint, limits: limits)))
    ownOrders = Mailbox()
    let started = OSThread.start("control", letsWakersGoOn: true) { [self] in loop() }
    thread.withLock { $0 = started }
  }

  // MARK: Members

  /// Starts to know a peer.
  ///
  /// - Parameter caller: Makes the calls to it; stopped with this client.
  package func addPeer(_ name: PeerName, through caller: any PeerCaller) {
    state.withLock { state in
      state.callers[name] = caller
      state.core.addPeer(name, at: MonotonicClock.now())
    }
    bell.ring()
  }

  /// Follows the store behind a Unix socket, whichever it is.
  ///
  /// - Parameter blockBytes: Of one block on one rank; 0: the store knows.
  package func followLocalStore(at path: String, blockBytes: Int = 0) {
    state.withLock { state in
      state.ownPath = path
      state.core.followOwnStore(
        engine: incarnation, socket: path, blockBytes: blockBytes, at: MonotonicClock.now())
    }
    bell.ring()
  }

  // MARK: For the step loop

  package func state(ofPeer name: PeerName) -> PeerState {
    state.withLock { $0.core.state(ofPeer: name) }
  }

  package var localStore: SourceID? { state.withLock { $0.core.localStore } }

  /// Whether it is worth asking the own store for a key: false when neither it nor anybody that it knows has it.
  package var keysKnown: (BlockKey) -> Bool {
    guard let known = state.withLock({ $0.known }) else { return { _ in true } }
    return { key in withExtendedLifetime(known) { known.table.mayHave(key) } }
  }

  package func attachFailed(_ source: SourceID) {
    state.withLock { $0.core.attachFailed(source, at: MonotonicClock.now()) }
    bell.ring()
  }

  package func drain() -> [ControlAnswer] { answers.drain() }

  package func post(_ request: ControlRequest) { post([request]) }

  package func post(_ requests: [ControlRequest]) {
    guard !requests.isEmpty else { return }
    advance { core, now in requests.flatMap { core.post($0, at: now) } }
  }

  /// Blocks its thread until every call to a peer has been answered, for at most `limit`. Messages to the own
  /// store are not waited for: what this engine holds there ends with its connection.
  package func finishCalls(within limit: Duration) {
    let deadline = MonotonicClock.now() + limit
    while state.withLock({ $0.core.pendingCount > 0 }), MonotonicClock.now() < deadline {
      OSThread.nap(.milliseconds(1))
    }
  }

  /// By peer, with what they have counted.
  package var breakers: [PeerName: PeerBreaker] {
    state.withLock { $0.core.peers.mapValues(\.breaker) }
  }

  // MARK: Switches

  package func setRenewals(dropped: Bool) {
    state.withLock { $0.core.setRenewals(dropped: dropped) }
  }
  package func setLeaseTTL(_ ttl: Duration?) { state.withLock { $0.core.leaseTTL = ttl } }

  // MARK: The end

  /// Stops the thread and every connection.
  package func stop() {
    let (callers, asked) = state.withLock { state in
      state.isStopping = true
      let asked = state.asked.values
      state.asked = [:]
      return (Array(state.callers.values), Array(asked))
    }
    for answer in asked { answer(nil) }
    bell.ring()
    thread.withLock { thread -> OSThread? in
      defer { thread = nil }
      return thread
    }?.join()
    for caller in callers { caller.stop() }
  }

  // MARK: The own store's housekeeping

  /// Asks the own store something that is not the core's business. Nil: it is away, or late.
  package func askOwnStore(
    within timeout: Duration, _ make: @Sendable (UInt64) -> LocalMessage
  ) async -> LocalMessage? {
    let id = state.withLock { state in
      defer { state.askNext += 1 }
      return state.askNext
    }
    let message = make(id)
    let timer = Task { [self] in
      try? await Task.sleep(for: timeout)
      state.withLock { $0.asked.removeValue(forKey: id) }?(nil)
    }
    defer { timer.cancel() }
    return await withCheckedContinuation { continuation in
      let isPossible = state.withLock { state in
        guard !state.isStopping, state.core.localStore != nil else { return false }
        state.asked[id] = { continuation.resume(returning: $0) }
        return true
      }
      guard isPossible else {
        continuation.resume(returning: nil)
        return
      }
      ownOrders.post(.send(message))
      bell.ring()
    }
  }

  // MARK: Carrying out

  /// Lets the core decide, and carries out what it orders.
  private func advance(_ event: (inout ControlCore, LocalInstant) -> [ControlCore.Order]) {
    let orders = state.withLock { state in
      let orders = event(&state.core, MonotonicClock.now())
      // Under the lock: a death is told before the same source's return.
      for answer in state.core.takeAnswers() { answers.post(answer) }
      for case .own(let order) in orders { ownOrders.post(order) }
      return orders
    }
    for case .call(let id, let peer, let call, let timeout) in orders {
      startCall(id, peer, call, timeout)
    }
    // A deadline may be earlier than the thread knows.
    if !orders.isEmpty { bell.ring() }
  }

  private func startCall(_ id: CallID, _ peer: PeerName, _ call: PeerCall, _ timeout: Duration) {
    guard let caller = state.withLock({ $0.callers[peer] }) else { return }
    Task { [self] in
      do throws(CallFailure) {
        // The core judges the deadline; the call itself may go on a little longer, for nobody.
        let reply = try await caller.reply(
          to: call, as: fingerprint, name: name, incarnation: incarnation,
          timeout: timeout + limits.handshakeTimeout)
        advance { core, now in
          core.answered(id, reply, at: now, chance: Double.random(in: 0...1))
        }
      } catch {
        advance { core, now in
          core.failed(id, error, at: now, chance: Double.random(in: 0...1))
        }
      }
    }
  }

  // MARK: The thread

  private func loop() {
    var socket: LocalSocket?
    // Who is, or was last, at its other end: a store that refuses us closes before we have read why.
    var process: Int32?
    while true {
      if state.withLock({ $0.isStopping }) { return }
      let orders = ownOrders.drain()
      for order in orders { perform(order, &socket, &process) }
      if orders.contains(where: \.isQuestion), let socket {
        // Whoever asks for many requests one after another wakes this thread once: it is awake, and hears its store.
        _ = silence.wait(
          until: MonotonicClock.now() + Self.gatherTime, hearing: [socket.descriptor])
      }
      read(&socket)
      let now = MonotonicClock.now()
      let due = state.withLock { $0.core.nextDeadline }
      if let due, due <= now {
        advance { core, now in core.timePassed(at: now, chance: Double.random(in: 0...1)) }
        continue
      }
      let until = min(due ?? now + .seconds(1), now + .seconds(1))
      _ = bell.wait(until: until, hearing: socket.map { [$0.descriptor] } ?? [])
    }
  }

  private func perform(
    _ order: OwnStore.Order, _ socket: inout LocalSocket?, _ process: inout Int32?
  ) {
    switch order {
    case .connect:
      guard let path = state.withLock({ $0.ownPath }) else { return }
      switch LocalSocket.connect(path) {
      case .success(let made):
        socket = made
        process = made.peer?.process
        advance { core, now in core.ownConnected(at: now) }
      case .failure: advance { core, now in core.ownDisconnected(at: now) }
      }
    case .send(let message):
      guard let current = socket, !current.send(message) else { return }
      lose(&socket)
    case .close: lose(&socket, tells: false)
    case .answer: break
    case .tellUnusable(let reason):
      if let process { onUnusable(process, reason) }
    }
  }

  private func read(_ socket: inout LocalSocket?) {
    while let current = socket {
      switch current.receive() {
      case .nothing: return
      case .message(let message, let descriptors):
        if case .welcome = message { take(descriptors) }
        received(message)
      case .malformed, .closed: lose(&socket)
      }
    }
  }

  private func take(_ descriptors: ReceivedDescriptors) {
    let known = descriptors.take().flatMap { descriptor in
      defer { close(descriptor) }
      return KnownKeysMapping(descriptor)
    }
    state.withLock { $0.known = known }
  }

  private func received(_ message: LocalMessage) {
    switch message {
    case .evicted(let id, _), .statsAnswer(let id, _):
      state.withLock { $0.asked.removeValue(forKey: id) }?(message)
    default: advance { core, now in core.ownReceived(message, at: now) }
    }
  }

  private func lose(_ socket: inout LocalSocket?, tells: Bool = true) {
    socket = nil
    let asked = state.withLock { state in
      defer { state.asked = [:] }
      state.known = nil
      return Array(state.asked.values)
    }
    for answer in asked { answer(nil) }
    if tells { advance { core, now in core.ownDisconnected(at: now) } }
  }
}

extension OwnStore.Order {
  fileprivate var isQuestion: Bool { if case .send(.want) = self { true } else { false } }
}

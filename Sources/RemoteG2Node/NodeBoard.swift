internal import LocalStore
internal import OSThreads
internal import RemoteG2Core

/// What a node's threads share: the core under its lock, the pools' memory, and whom to give which orders.
final class NodeBoard: Sendable {
  enum PullOrder: Sendable {
    case pull(
      StreamID, from: PeerName, PoolNumber, PoolTerms, keys: [BlockKey], patience: Duration)
    case cancel(StreamID)
  }

  private let core: Guarded<NodeCore>
  /// What engines look up before they ask. Written under the core's lock.
  let known: KnownKeysMemory
  let memory = Guarded<[PoolNumber: KeptPool]>([:])
  let localBell = EventBell()
  let pullBell = EventBell()
  let localActions: Mailbox<NodeAction>
  let pullOrders: Mailbox<PullOrder>
  let agentBell = EventBell()
  let agentOrders: Mailbox<AgentOrder>
  let liveness = Guarded(Liveness())
  private let membership: Guarded<Membership>
  let watchBell = EventBell()
  let watchOrders: Mailbox<Membership.Change>
  /// Connections from other members, of all threads that serve them.
  private let readerCount = Guarded(0)
  /// Of the threads that serve watchers.
  private let feedBells = Guarded<[EventBell]>([])

  init(_ core: NodeCore) throws(PoolError) {
    known = try KnownKeysMemory(bytes: core.limits.knownKeysBytes)
    self.core = Guarded(core)
    localActions = Mailbox(ringing: localBell)
    pullOrders = Mailbox(ringing: pullBell)
    agentOrders = Mailbox(ringing: agentBell)
    watchOrders = Mailbox(ringing: watchBell)
    membership = Guarded(Membership(own: core.name, limits: core.limits))
  }

  /// What one origin says of who the members are, all of it.
  ///
  /// - Returns: What an operator should know.
  func found(_ places: [Membership.Place], by origin: Membership.Origin) -> [String] {
    // In one order for all who ask, because what changes is carried out under the lock.
    membership.withLock { membership in
      let (changes, complaints) = membership.found(places, by: origin)
      for change in changes {
        withCore { core in
          switch change {
          case .joined(let place): core.admit(place.name, isNamed: place.isNamed)
          case .left(let name): core.dismiss(name)
          }
        }
        watchOrders.post(change)
      }
      return complaints
    }
  }

  func place(of member: PeerName) -> Membership.Place? {
    membership.withLock { $0.places[member] }
  }

  /// Each thread says so in every turn.
  func turned(_ thread: String) {
    let now = MonotonicClock.now()
    liveness.withLock { $0.turned(thread, at: now) }
  }

  func ringWithFeed(_ bell: EventBell) { feedBells.withLock { $0.append(bell) } }

  /// Asks the core, or tells it something that orders nothing. What becomes known of keys thereby, engines can
  /// look up when this returns.
  func withCore<Result>(_ body: (inout NodeCore) -> Result) -> Result {
    core.withLock { core in
      let result = body(&core)
      writeDown(&core)
      return result
    }
  }

  /// Under the core's lock: before any byte of a slot changes, and before anybody can find one that is sealed.
  private func writeDown(_ core: inout NodeCore) {
    for change in core.takeKnownChanges() { known.table.note(change) }
    for (number, changes) in core.takeSlotChanges() {
      guard let table = memory.withLock({ $0[number]?.table }) else { continue }
      for change in changes { table.apply(change) }
    }
  }

  /// Lets the core decide, and hands each action to the thread that carries it out.
  func advance(_ event: (inout NodeCore, LocalInstant) -> [NodeAction]) {
    var feedChanged = false
    core.withLock { core in
      let actions = event(&core, MonotonicClock.now())
      writeDown(&core)
      // Under the lock, so that each thread gets its orders in the order in which they were decided.
      for action in actions {
        switch action {
        case .local, .makePool: localActions.post(action)
        case .pull(let stream, let member, let pool, let terms, let keys, let patience):
          pullOrders.post(
            .pull(stream, from: member, pool, terms, keys: keys, patience: patience))
        case .cancel(let stream): pullOrders.post(.cancel(stream))
        case .feedChanged: feedChanged = true
        case .startAgent(let pool, let id): agentOrders.post(.start(pool, id))
        case .endAgent(let pool): agentOrders.post(.end(pool))
        }
      }
    }
    guard feedChanged else { return }
    for bell in feedBells.withLock({ $0 }) { bell.ring() }
  }

  func admitsReader(_ limits: Limits) -> Bool {
    readerCount.withLock { count in
      guard count < limits.streamConnectionsMax else { return false }
      count += 1
      return true
    }
  }

  func readerLeft() { readerCount.withLock { $0 -= 1 } }

  func pools(_ number: PoolNumber) -> [PoolMemory]? {
    memory.withLock { $0[number]?.ranks }
  }
}

/// A thread that turns until it is stopped, and sleeps where it has nothing to do.
final class TurningThread: Sendable {
  private let isStopping = Guarded(false)
  private let thread = Guarded<OSThread?>(nil)
  private let bell: EventBell

  /// - Parameter loop: Called once, on the thread; it returns soon after ``isOver`` has become true.
  init(_ name: String, bell: EventBell, _ loop: @escaping @Sendable (TurningThread) -> Void) {
    self.bell = bell
    let started = OSThread.start(name) { [self] in loop(self) }
    thread.withLock { $0 = started }
  }

  var isOver: Bool { isStopping.withLock { $0 } }

  func stop() {
    isStopping.withLock { $0 = true }
    bell.ring()
    thread.withLock { thread -> OSThread? in
      defer { thread = nil }
      return thread
    }?.join()
  }
}

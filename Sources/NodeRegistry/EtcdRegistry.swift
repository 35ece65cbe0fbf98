internal import OSThreads
package import RemoteG2Core

/// Keeps a node in etcd, and tells who else is there. The shell of a ``RegistryMachine``.
package final class EtcdRegistry: Sendable {
  /// What an operator tells of it.
  package struct Configuration: Sendable {
    /// `http://HOST:PORT` or `https://HOST:PORT` each; the next is tried when one fails.
    package var endpoints: [String]
    package var prefix: String
    package var name: PeerName
    /// What others are told: this node's `--listen`.
    package var listen: String
    package var access: EtcdAccess

    package init(
      endpoints: [String], prefix: String = "/remote-g2/members/", name: PeerName, listen: String,
      access: EtcdAccess = EtcdAccess()
    ) {
      self.endpoints = endpoints
      self.prefix = prefix
      self.name = name
      self.listen = listen
      self.access = access
    }
  }

  private enum Event: Sendable {
    case time
    case granted(Int64, Duration)
    case entered(RegistryMachine.Entry)
    case renewed(Duration?)
    case listed([RegistryMachine.Change], Int64)
    case changed([RegistryMachine.Change])
    case watchEnded
    case failed(RegistryMachine.Call, String)
  }

  private struct State {
    var endpoint = 0
    var lease: Int64?
  }

  private let configuration: Configuration
  private let limits: Limits
  private let connection: EtcdConnection
  private let client: EtcdClient
  private let state = Guarded(State())
  private let events: AsyncStream<Event>
  private let post: AsyncStream<Event>.Continuation
  private let task = Guarded<Task<Void, Never>?>(nil)

  /// - Parameters:
  ///   - found: Told who the others are, whenever that changes.
  ///   - log: Told what an operator should know.
  package init(
    _ configuration: Configuration, limits: Limits,
    found: @escaping @Sendable ([Membership.Place]) -> Void,
    log: @escaping @Sendable (String) -> Void
  ) {
    self.configuration = configuration
    self.limits = limits
    connection = EtcdConnection(configuration.access, tell: log)
    client = EtcdClient(connection, prefix: configuration.prefix, limits: limits)
    (events, post) = AsyncStream.makeStream()
    let running = Task { [self] in await run(found, log) }
    task.withLock { $0 = running }
  }

  /// Takes the node out of the registry, if that answers, and ends.
  ///
  /// - Parameter leaves: Otherwise its entry stays until its lease ends, for one that takes its place.
  package func stop(leaves: Bool = true) async {
    let running = task.withLock { task in
      defer { task = nil }
      return task
    }
    running?.cancel()
    post.finish()
    await running?.value
    let (lease, number) = state.withLock { ($0.lease, $0.endpoint) }
    if leaves, let lease { try? await client.revoke(endpoint(number), lease) }
    await connection.close(within: limits.registryCallMax)
  }

  private func endpoint(_ number: Int) -> String {
    configuration.endpoints[number % configuration.endpoints.count]
  }

  private func run(
    _ found: @Sendable ([Membership.Place]) -> Void, _ log: @Sendable (String) -> Void
  ) async {
    var machine = RegistryMachine(
      name: configuration.name, limits: limits, from: MonotonicClock.now())
    await withDiscardingTaskGroup { group in
      var timer: Task<Void, Never>?
      func carryOut(_ orders: [RegistryMachine.Order]) {
        for order in orders {
          switch order {
          case .found(let places): found(places)
          case .tell(let line): log(line)
          default: group.addTask { await self.call(order) }
          }
        }
        timer?.cancel()
        guard let due = machine.nextDeadline else { return }
        let post = post
        timer = Task {
          try? await Task.sleep(for: max(.zero, due - MonotonicClock.now()))
          if !Task.isCancelled { post.yield(.time) }
        }
      }
      carryOut(machine.timePassed(at: MonotonicClock.now()))
      for await event in events {
        let now = MonotonicClock.now()
        switch event {
        case .time: carryOut(machine.timePassed(at: now))
        case .granted(let lease, let lasts):
          carryOut(machine.granted(lease, lasts: lasts, at: now))
        case .entered(let entry): carryOut(machine.entered(entry, at: now))
        case .renewed(let lasts): carryOut(machine.renewed(lasts: lasts, at: now))
        case .listed(let all, let revision): carryOut(machine.listed(all, at: revision, now))
        case .changed(let changes): carryOut(machine.changed(changes))
        case .watchEnded: carryOut(machine.watchEnded(at: now))
        case .failed(let call, let reason):
          carryOut(machine.failed(call, because: reason, at: now))
        }
      }
      timer?.cancel()
      group.cancelAll()
    }
  }

  /// One call; what comes of it is posted.
  private func call(_ order: RegistryMachine.Order) async {
    let number = state.withLock { $0.endpoint }
    let endpoint = endpoint(number)
    do {
      switch order {
      case .grant(let lasts):
        let (lease, granted) = try await client.grant(endpoint, lasts: lasts)
        state.withLock { $0.lease = lease }
        post.yield(.granted(lease, granted))
      case .enter(let lease):
        post.yield(
          .entered(
            try await client.enter(
              endpoint, configuration.name.text, configuration.listen, lease)))
      case .renew(let lease): post.yield(.renewed(try await client.renew(endpoint, lease)))
      case .list:
        let (all, revision) = try await client.list(endpoint)
        post.yield(.listed(all, revision))
      case .watch(let revision): try await watch(endpoint, revision)
      case .found, .tell: break
      }
    } catch {
      // The next one, unless another call that failed with this one has gone on to it.
      state.withLock { if $0.endpoint == number { $0.endpoint += 1 } }
      post.yield(.failed(order.call, connection.words(error)))
    }
  }

  /// No longer than it may last: a connection that is dead says nothing.
  private func watch(_ endpoint: String, _ revision: Int64) async throws {
    let (client, post, most) = (client, post, limits.registryWatchMax)
    try await withThrowingTaskGroup(of: Bool.self) { group in
      group.addTask {
        try await client.watch(endpoint, after: revision) { post.yield(.changed($0)) }
        return false
      }
      group.addTask {
        try await Task.sleep(for: most)
        return true
      }
      let isOver = try await group.next() ?? true
      group.cancelAll()
      if isOver { post.yield(.watchEnded) }
    }
  }
}

extension RegistryMachine.Order {
  fileprivate var call: RegistryMachine.Call {
    switch self {
    case .list, .watch: .others
    case .grant, .enter, .renew, .found, .tell: .own
    }
  }
}

internal import CLinuxShims
internal import Glibc
internal import LocalStore
internal import OSThreads
package import RemoteG2Core

/// Why a node cannot start.
package enum NodeError: Error, Equatable, Sendable, CustomStringConvertible {
  case nameTaken(String, path: String)
  case cannotLock(path: String, reason: String)
  case cannotListen(String, reason: String)
  case noMemory(String)
  case noCertificate(TLSError)

  package var description: String {
    switch self {
    case .nameTaken(let name, let path):
      "a node named \(name) is running already (it holds \(path)): stop it, or choose another --name"
    case .cannotLock(let path, let reason): "cannot lock \(path): \(reason)"
    case .cannotListen(let address, let reason):
      "cannot listen on \(address): \(reason); choose another --listen"
    case .noMemory(let reason): reason
    case .noCertificate(let error): "\(error)"
    }
  }
}

/// What a node is started with.
package struct NodeConfiguration: Sendable {
  package var name: PeerName
  /// For other members' questions.
  package var address: StreamAddress
  package var members: [(name: PeerName, address: StreamAddress)]
  /// What name services are asked about others.
  package var lookups: [MemberLookup.Question]
  /// For all pools together.
  package var memoryBytes: Int
  /// Folder of the socket and the lock.
  package var directory: String
  /// Whose members may attach engines, besides this user and root; nil: nobody.
  package var group: UInt32?
  package var limits: Limits
  /// Whether one worker alone has it: engines that look for the node of their host do not find it.
  package var isPrivate: Bool
  /// Whether somebody carries out ``Node/takeAgentOrders()``: pools can be read by peers themselves then.
  package var hasAgents: Bool
  /// Its certificate; nil: nothing is encrypted, and nobody proves who he is.
  package var tls: TLSFiles?
  /// Of the process that keeps its pools' files; nil: they end with this one.
  package var keeper: KeeperLink?
  /// Draws the names of the node and of its pools: each is to be new.
  package var draw: @Sendable () -> Incarnation
  /// Told what an operator should know, one line each.
  package var log: @Sendable (String) -> Void

  package init(
    name: PeerName, address: StreamAddress, members: [(name: PeerName, address: StreamAddress)],
    lookups: [MemberLookup.Question] = [],
    memoryBytes: Int, directory: String, group: UInt32? = nil, limits: Limits = Limits(),
    isPrivate: Bool = false, hasAgents: Bool = false, tls: TLSFiles? = nil,
    keeper: KeeperLink? = nil,
    draw: @escaping @Sendable () -> Incarnation = NodeConfiguration.random,
    log: @escaping @Sendable (String) -> Void
  ) {
    self.name = name
    self.address = address
    self.members = members
    self.lookups = lookups
    self.memoryBytes = memoryBytes
    self.directory = directory
    self.group = group
    self.limits = limits
    self.isPrivate = isPrivate
    self.hasAgents = hasAgents
    self.tls = tls
    self.keeper = keeper
    self.draw = draw
    self.log = log
  }

  package static let random: @Sendable () -> Incarnation = {
    var generator = SystemRandomNumberGenerator()
    return Incarnation(using: &generator)
  }

  package var socketPath: String { "\(directory)/\(name).\(isPrivate ? "own" : "node")" }
  package var lockPath: String { "\(socketPath).lock" }
}

/// The service of one host: pools for all its engines, and streams to and from other members. The shell of a
/// ``NodeCore``: threads that each own their sockets, one lock round the core.
package final class Node: Sendable {
  package let incarnation: Incarnation
  let configuration: NodeConfiguration
  let board: NodeBoard
  private let local: NodeLocalThread
  private let pulls: PullThread
  private let watches: WatchThread
  private let streams: [ServeThread]
  private let lookup: LookupThread?
  private let adoption: AdoptionThread
  private let lock: Int32
  /// That other members reach it at.
  package let port: Int

  /// The name, for this process alone. Whoever lives answers; whoever leaves, or was killed and whose memory is not given
  /// back yet, has it for a while, and for that it is waited.
  private static func lock(_ configuration: NodeConfiguration) throws(NodeError) -> Int32 {
    let path = configuration.lockPath
    let deadline = MonotonicClock.now() + configuration.limits.nameWaitMax
    var hasTold = false
    while true {
      let lock = clinux_lock_file(path)
      if lock >= 0 { return lock }
      guard lock == -EWOULDBLOCK else {
        throw .cannotLock(path: path, reason: String(cString: strerror(-lock)))
      }
      guard !answers(configuration.socketPath), MonotonicClock.now() < deadline else {
        throw .nameTaken(configuration.name.text, path: path)
      }
      if !hasTold {
        configuration.log("waits for a process that had the name \(configuration.name) to end")
      }
      hasTold = true
      OSThread.nap(.milliseconds(5))
    }
  }

  private static func answers(_ path: String) -> Bool {
    do throws(NodeQuestion.Failure) {
      _ = try NodeQuestion.report(of: path, within: .milliseconds(500))
      return true
    } catch {
      // Of another version.
      if case .senseless = error { return true }
      return false
    }
  }

  /// Listens, and serves from now on.
  package init(_ configuration: NodeConfiguration) throws(NodeError) {
    // Held for the life of the node: only its holder may replace the socket.
    let lock = try Self.lock(configuration)
    self.lock = lock
    self.configuration = configuration
    incarnation = configuration.draw()
    let keeper: TLSKeeper?
    do throws(TLSError) {
      let tls = (configuration.tls, configuration.name, configuration.log)
      keeper = if let files = tls.0 { try TLSKeeper(files, name: tls.1, log: tls.2) } else { nil }
    } catch {
      close(lock)
      throw .noCertificate(error)
    }
    var core = NodeCore(
      node: incarnation, name: configuration.name, members: [],
      memoryBytes: configuration.memoryBytes, limits: configuration.limits,
      hasAgents: configuration.hasAgents, hasKeeper: configuration.keeper != nil,
      secret: NodeConfiguration.random())
    core.adopting = configuration.keeper.map { AdoptionReport(life: $0.life) }
    let taken: [AdoptionThread.Taken]
    do throws(NodeError) {
      do throws(PoolError) { board = try NodeBoard(core) } catch {
        throw NodeError.noMemory("\(error)")
      }
      let listener = try Self.listener(configuration)
      port = listener.port
      let limits = configuration.limits
      taken = Self.adopt(configuration, board)
      // All that can fail comes before the first thread is started.
      var listeners: [StreamListener] = []
      for _ in 0..<limits.streamThreads { listeners.append(try listener.shared()) }
      do throws(PoolError) {
        local = try NodeLocalThread(board, configuration)
      } catch {
        throw NodeError.cannotListen(configuration.socketPath, reason: "\(error)")
      }
      var threads: [ServeThread] = []
      for (place, listener) in listeners.enumerated() {
        threads.append(
          ServeThread(
            place + 1, board, limits: limits, listener: listener, keeper: keeper,
            log: configuration.log))
      }
      streams = threads
    } catch {
      close(lock)
      throw error
    }
    adoption = AdoptionThread(board, taken, configuration.keeper, log: configuration.log)
    keeper?.onChange { [board] end in board.withCore { $0.handshakes.certificateEnd = end } }
    let told = configuration.members.map { Membership.Place(name: $0.name, address: $0.address) }
    for line in board.found(told, by: .told) { configuration.log(line) }
    lookup =
      configuration.lookups.isEmpty
      ? nil
      : LookupThread(
        board, MemberLookup(configuration.lookups, fixed: told), log: configuration.log)
    pulls = PullThread(
      board, as: StreamIdentity(node: incarnation, name: configuration.name),
      limits: configuration.limits, keeper: keeper)
    watches = WatchThread(
      board, as: StreamIdentity(node: incarnation, name: configuration.name),
      limits: configuration.limits, keeper: keeper, log: configuration.log)
  }

  /// Where the process before it listened, if the system chose that; there or elsewhere.
  private static func listener(
    _ configuration: NodeConfiguration
  ) throws(NodeError) -> StreamListener {
    if configuration.address.port == 0, let before = configuration.keeper?.port, before > 0,
      let listener = try? StreamListener(
        StreamAddress(host: configuration.address.host, port: before))
    {
      return listener
    }
    return try StreamListener(configuration.address)
  }

  /// Takes over what its keeper has of the process before.
  private static func adopt(
    _ configuration: NodeConfiguration, _ board: NodeBoard
  ) -> [AdoptionThread.Taken] {
    guard let keeper = configuration.keeper else { return [] }
    var taken: [AdoptionThread.Taken] = []
    for files in keeper.takeHanded() {
      let id = configuration.draw()
      let refusal: TableHeader.Unusable
      switch KeptPool.adopt(files, as: id) {
      case .success(let (pool, header, adoption)):
        var number: PoolNumber?
        board.advance { core, now in
          guard let entered = core.adopt(header, adoption, as: id, at: now) else { return [] }
          number = entered.number
          // Its table is told of what changes from the first change on.
          board.memory.withLock { $0[entered.number] = pool }
          return entered.actions
        }
        guard let number else {
          refusal = .tooLarge
          break
        }
        taken.append(.init(number: number, pool: pool, kept: adoption.kept))
        continue
      case .failure(let unusable): refusal = unusable
      }
      configuration.log(
        "what the process before it held is not taken over: \(refusal); its memory is given back")
      keeper.drop(files.files)
    }
    return taken
  }

  /// What it decides by, for reports.
  package func look<Result>(_ body: (NodeCore) -> Result) -> Result {
    board.withCore { body($0) }
  }

  /// Threads of it that hang; empty while it is well.
  package var hanging: [String] {
    let now = MonotonicClock.now()
    return board.liveness.withLock { $0.hanging(at: now) }
  }

  /// What one origin says of who the other members are, all of it.
  package func found(_ places: [Membership.Place], by origin: Membership.Origin) {
    for line in board.found(places, by: origin) { configuration.log(line) }
  }

  /// Answers no new question of other members.
  package func leave() { board.withCore { $0.isLeaving = true } }

  /// Whether it is sending nothing any more, to members or to its own engines.
  package var isDrained: Bool { look(\.isDrained) }

  /// No engine finds it any more; those that are connected stay.
  package func stopListening() { unlink(configuration.socketPath) }

  /// Ends every thread and connection; its pools end with the last process that maps them.
  package func stop() {
    stopListening()
    adoption.stop()
    lookup?.stop()
    watches.stop()
    pulls.stop()
    for thread in streams { thread.stop() }
    local.stop()
    close(lock)
  }
}

/// What a node says of itself when it connects.
struct StreamIdentity: Sendable {
  let node: Incarnation
  let name: PeerName
}

import ContentDigest
import KVTransfer
import LocalStore
import RemoteG2Core

/// Which connection a question may use.
struct FleetRoute: Hashable, Comparable {
  let member: PeerName
  let terms: PoolTerms
  static func < (a: Self, b: Self) -> Bool {
    (a.member, a.terms.fingerprint.modelDigest) < (b.member, b.terms.fingerprint.modelDigest)
  }
}

final class FleetPull {
  let socket: FleetSocket
  let route: FleetRoute
  let pool: PoolNumber
  var machine: PullMachine
  /// Of the block that is arriving.
  var slot: (SlotIndex, generation: UInt32)?
  var found: [Digest128] = []
  var running = StreamingDigest()
  var hasBegun = false

  init(_ socket: FleetSocket, _ route: FleetRoute, _ pool: PoolNumber, _ machine: PullMachine) {
    self.socket = socket
    self.route = route
    self.pool = pool
    self.machine = machine
  }
}

final class FleetServe {
  let socket: FleetSocket
  var machine: ServeMachine
  init(_ socket: FleetSocket, _ machine: ServeMachine) {
    self.socket = socket
    self.machine = machine
  }
}

final class FleetWatch {
  var machine: WatchMachine
  let other: FleetNode
  var socket: FleetSocket?
  init(_ machine: WatchMachine, of other: FleetNode) {
    self.machine = machine
    self.other = other
  }
}

/// The node's streams: bytes in and out, as its threads move them. What they mean, the machines say.
extension FleetProcess {
  private static let bytesPerTurn = 600

  func turnStreams() {
    for watch in watches { turn(watch) }
    serves = serves.filter { serve in
      let goesOn = turn(serve)
      if !goesOn { close(serve) }
      return goesOn
    }
    let lateness = pullWakeAt.map { max(.zero, now - $0) } ?? .zero
    for stream in pulls.keys.sorted() {
      guard let pull = pulls[stream] else { continue }
      if let end = turn(pull, stream, lateness) { endPull(stream, end) }
    }
    for route in idle.keys.sorted() {
      idle[route] = idle[route]?.filter { $0.receive(atMost: 1) == .nothing }
    }
  }

  /// - Returns: False when the connection is over.
  private func send(_ queue: inout SendQueue, to socket: FleetSocket) -> Bool {
    while !queue.isEmpty {
      guard let count = queue.withNext({ socket.send($0) }) else { return false }
      guard count > 0 else { return true }
      queue.took(count)
    }
    return true
  }

  func connect(to other: FleetNode) -> FleetSocket? {
    let (near, far) = FleetSocket.pair(world, node.index, other.index)
    near.wake = { [weak self] in self?.wake() }
    world.plan(after: world.networkDelay()) { [world, other] in
      world.accept(far, at: other)
    }
    return near
  }

  func accepted(_ socket: FleetSocket) {
    guard isAlive, serves.count < world.limits.streamConnectionsMax else {
      return socket.close(abruptly: true)
    }
    socket.wake = { [weak self] in self?.wake() }
    serves.append(FleetServe(socket, ServeMachine(limits: world.limits, at: now)))
    wake()
  }

  // MARK: Watching

  private func turn(_ watch: FleetWatch) {
    follow(watch.machine.timePassed(&core, at: now), watch)
    while let socket = watch.socket {
      guard send(&watch.machine.outgoing, to: socket) else {
        return follow(watch.machine.ended(nil, &core, at: now), watch)
      }
      switch socket.receive(atMost: watch.machine.wanted) {
      case .nothing: return
      case .closed: return follow(watch.machine.ended(nil, &core, at: now), watch)
      case .bytes(let piece):
        follow(piece.withUnsafeBytes { watch.machine.took($0, &core, at: now) }, watch)
      }
    }
  }

  private func follow(_ orders: [WatchMachine.Order], _ watch: FleetWatch) {
    publish()
    for order in orders {
      switch order {
      case .connect: watch.socket = connect(to: watch.other)
      case .close:
        watch.socket?.close()
        watch.socket = nil
      case .tell: break
      }
    }
  }

  // MARK: Serving

  private func turn(_ serve: FleetServe) -> Bool {
    if serve.machine.isOverdue(at: now) { return false }
    while let wanted = serve.machine.wanted {
      switch serve.socket.receive(atMost: wanted) {
      case .closed: return false
      case .bytes(let piece):
        guard piece.withUnsafeBytes({ serve.machine.took($0, &core) }) else { return false }
        continue
      case .nothing: break
      }
      break
    }
    var budget = Self.bytesPerTurn
    while budget > 0 {
      let count: Int?
      switch serve.machine.next() {
      case .over: return false
      case .idle: return true
      case .prepare:
        guard serve.machine.prepare(&core, at: now) else { return true }
        world.mayHide(&serve.machine.outgoing)
        continue
      case .send:
        guard let bytes = bytes(of: serve.machine, budget) else { return false }
        count = bytes.withUnsafeBytes { serve.socket.send($0) }
      }
      guard let count else { return false }
      guard count > 0 else { return !serve.machine.blocked(at: now) }
      budget -= count
      serve.machine.sent(count, at: now)
    }
    wake()
    return true
  }

  /// What is sent next, as much of it as there is room for.
  private func bytes(of machine: ServeMachine, _ budget: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    for part in machine.parts(atMost: budget) {
      switch part {
      case .queued: bytes += machine.outgoing.withNext { Array($0) }
      case .frames(let range): bytes += machine.frames[range]
      case .body(let slot, let rank, let offset, let count):
        guard let pool = machine.pool, let memory = memory[pool] else { return nil }
        bytes += UnsafeRawBufferPointer(
          start: memory[rank].memory.region.pointer(to: slot.index) + offset, count: count)
      }
    }
    return bytes
  }

  private func close(_ serve: FleetServe) {
    serve.socket.close()
    if world.bug != .servedPinsKept { serve.machine.close(&core) }
  }

  // MARK: Pulling

  func beginPull(
    _ stream: StreamID, _ member: PeerName, _ number: PoolNumber, _ terms: PoolTerms,
    _ keys: [BlockKey], _ patience: Duration
  ) {
    let route = FleetRoute(member: member, terms: terms)
    guard let other = world.nodes.first(where: { $0.name == member }) else { return }
    let kept = idle[route]?.popLast()
    guard let socket = kept ?? connect(to: other) else { return }
    socket.wake = { [weak self] in self?.wake() }
    let hello = StreamHello(node: incarnation, name: node.name, terms: terms)
    pulls[stream] = FleetPull(
      socket, route, number,
      PullMachine(
        hello: kept == nil ? hello : nil, terms: terms, keys: keys, patience: patience,
        limits: world.limits, at: now))
    wake()
  }

  func endPull(_ stream: StreamID, _ end: PullEnd, keepsConnection: Bool = true) {
    guard let pull = pulls.removeValue(forKey: stream) else { return }
    if keepsConnection, end.keepsConnection,
      idle[pull.route, default: []].count < world.limits.streamsIdleMax
    {
      idle[pull.route, default: []].append(pull.socket)
    } else {
      pull.socket.close()
    }
    world.noteEnd(end)
    if let (slot, _) = pull.slot {
      writing[pull.pool]?.remove(slot)
      if world.bug == .writesAfterEnd {
        world.plan(after: .milliseconds(2)) { [self] in world.writesLate(slot, pull.pool, self) }
      }
    }
    advance { core, now in core.ended(stream, end, at: now) }
  }

  private func turn(
    _ pull: FleetPull, _ stream: StreamID, _ lateness: Duration
  ) -> PullEnd? {
    guard send(&pull.machine.outgoing, to: pull.socket) else { return .broken }
    var hasHeard = false
    while true {
      let wanted =
        switch pull.machine.need {
        case .frame(let count), .dropped(let count), .body(_, _, _, let count): count
        }
      switch pull.socket.receive(atMost: wanted) {
      case .closed: return .broken
      case .nothing:
        if !hasHeard, case .ended(let end) = pull.machine.judge(lateness: lateness, at: now) {
          return end
        }
        return nil
      case .bytes(let piece):
        hasHeard = true
        let end = follow(take(piece, pull), pull, stream)
        let pace = pull.machine.heard(at: now)
        if !pull.hasBegun, let after = pull.machine.firstByteAfter {
          pull.hasBegun = true
          core.answerBegan(stream, after: after)
        }
        if case .ended(let end) = end { return end }
        if let pace {
          let received = pull.machine.received
          advance { core, now in
            core.paced(stream, bytesPerSecond: pace, received: received, at: now)
          }
        }
        // What a decision has just cancelled is over, and its slot may be another's.
        guard pulls[stream] === pull else { return nil }
      }
    }
  }

  private func take(_ piece: [UInt8], _ pull: FleetPull) -> PullMachine.Step {
    switch pull.machine.need {
    case .frame: return piece.withUnsafeBytes { pull.machine.took($0) }
    case .dropped: return pull.machine.took(piece.count)
    case .body(let slot, let rank, let offset, _):
      // A pool that has gone keeps its memory for who still writes it.
      guard let pool = memory[pull.pool] else { return .ended(.unneeded) }
      let place = pool[rank].memory.region.pointer(to: slot.index) + offset
      piece.withUnsafeBytes { place.copyMemory(from: $0.baseAddress!, byteCount: piece.count) }
      pull.running.add(UnsafeRawBufferPointer(start: place, count: piece.count))
      return pull.machine.took(piece.count)
    }
  }

  private func follow(
    _ step: PullMachine.Step, _ pull: FleetPull, _ stream: StreamID
  ) -> PullMachine.Step {
    switch step {
    case .more, .ended: return step
    case .arriving(let position):
      let arrival = core.arriving(stream, position: position)
      if case .write(let slot, let generation) = arrival {
        world.beginsWriting(slot, pull.pool, self)
        pull.slot = (slot, generation)
        if world.bug != .bytesBeforeWord {
          for pool in memory[pull.pool] ?? [] { pool.words.beginWriting(slot, generation) }
        }
        pull.found = []
        pull.running.begin(key: pull.machine.keys[position], rank: 0)
      }
      return pull.machine.place(arrival)
    case .rankWhole:
      pull.found.append(pull.running.value())
      pull.running.begin(key: pull.machine.keys[pull.machine.position], rank: pull.found.count)
      return .more
    case .blockWhole(let slot, let generation, let digests):
      pull.found.append(pull.running.value())
      let isRight = pull.found == digests || world.bug == .sealedWithoutDigest
      guard isRight else {
        advance { core, now in core.arrived(stream, digests: nil, at: now) }
        endWriting(pull)
        return .ended(.invalid)
      }
      for pool in memory[pull.pool] ?? [] { pool.words.makeReadable(slot, generation) }
      endWriting(pull)
      world.checkSealed(slot, pull.machine.keys[pull.machine.position], self, pull.pool)
      advance { core, now in core.arrived(stream, digests: pull.found, at: now) }
      return .more
    case .skipped:
      advance { core, now in core.arrived(stream, digests: nil, at: now) }
      return .more
    }
  }

  private func endWriting(_ pull: FleetPull) {
    if let (slot, _) = pull.slot { writing[pull.pool]?.remove(slot) }
    pull.slot = nil
  }
}

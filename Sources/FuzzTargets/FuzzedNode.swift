import RemoteG2Core

/// A node's core, with whoever talks to it saying anything at all.
struct FuzzedNode {
  static let terms = PoolTerms(
    fingerprint: Fingerprint(
      modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 1, numerics: "n"),
    blockBytes: 64)
  private static let engine = Incarnation(high: 2, low: 2)

  private var core: NodeCore
  private var now = LocalInstant(nanoseconds: 1_000_000_000)
  private var idNext: UInt64 = 10

  private init() {
    let limits = Limits { $0.slotsMax = 8 }
    core = NodeCore(
      node: Incarnation(high: 1, low: 1), name: "a", members: ["b"], memoryBytes: 1 << 10,
      limits: limits, hasKeeper: true)
  }

  /// Carries out what a shell would, at once.
  private mutating func perform(_ actions: [NodeAction]) {
    var left = actions
    var steps = 0
    while !left.isEmpty {
      let action = left.removeFirst()
      steps += 1
      precondition(steps < 10_000, "it never ends")
      switch action {
      case .makePool(let number, _, _):
        idNext += 1
        left += core.poolMade(number, .success(Incarnation(high: 3, low: idNext)), at: now)
      case .local(.copy(let copy), let pool?):
        let digests = [Digest128(high: copy.key.high, low: 1)]
        left += core.copied(copy, in: pool, digests: copy.key.low & 7 == 7 ? nil : digests)
      case .local(.close(let id), _): left += core.left(id, at: now)
      case .pull(let stream, _, _, _, _, _): left += core.ended(stream, .broken, at: now)
      case .local, .cancel, .feedChanged, .startAgent, .endAgent: break
      }
    }
    _ = core.takeSlotChanges()
    _ = core.takeKnownChanges()
  }

  private mutating func passTime(_ milliseconds: Int64) {
    now = now + .milliseconds(milliseconds)
    perform(core.timePassed(at: now))
  }

  /// A leader and a rank that have attached, and some sealed blocks.
  private mutating func attach() -> [ConnectionID] {
    let hellos: [LocalHello.Role] = [.leader, .rank(0)]
    return hellos.compactMap { role in
      guard let id = core.joined(at: now) else { return nil }
      let hello = LocalHello(
        engine: Self.engine, role: role, fingerprint: Self.terms.fingerprint, stagingSlots: 4,
        blockBytes: Self.terms.blockBytes)
      perform(core.received(.hello(hello), from: id, at: now))
      return id
    }
  }

  private mutating func seal(_ count: UInt64, over ids: [ConnectionID]) {
    guard ids.count == 2 else { return }
    for number in 0..<count {
      let key = BlockKey(high: 0, low: number)
      perform(
        core.received(
          .staged([StagedBlock(slot: UInt32(number % 4), key: key, step: number + 1)]),
          from: ids[1], at: now))
      perform(
        core.received(
          .commit([
            CommittedBlock(
              key: key, parent: number == 0 ? nil : BlockKey(high: 0, low: number - 1),
              digests: nil, step: number + 1)
          ]), from: ids[0], at: now))
    }
  }

  // MARK: Targets

  /// Packets of an engine's connections: a byte says which connection, the next two how long it is.
  static func engine(_ bytes: UnsafeRawBufferPointer) {
    var node = Self()
    var ids = node.attach()
    if let stranger = node.core.joined(at: node.now) { ids.append(stranger) }
    var rest = bytes[...]
    while rest.count >= 3 {
      let head = Array(rest.prefix(3))
      rest = rest.dropFirst(3)
      let packet = rest.prefix(Int(head[1]) | Int(head[2] & 3) << 8)
      rest = rest.dropFirst(packet.count)
      node.passTime(Int64(head[2] >> 2))
      let id = ids[Int(head[0]) % ids.count]
      guard let message = try? LocalCodec.decode(UnsafeRawBufferPointer(rebasing: packet)) else {
        node.perform(node.core.malformed(id))
        continue
      }
      node.perform(node.core.received(message, from: id, at: node.now))
    }
    for id in ids { node.perform(node.core.left(id, at: node.now)) }
    node.passTime(200_000)
    let report = node.core.report
    precondition(report.waiting == 0 && report.pools.allSatisfy { $0.pinned == 0 }, "a pin is lost")
    precondition(
      report.pools.allSatisfy { $0.writing == 0 && $0.staged == 0 && $0.leases == 0 },
      "something of an engine that has gone is held")
  }

  /// A member's feed.
  static func watch(_ bytes: UnsafeRawBufferPointer) {
    var node = Self()
    node.seal(4, over: node.attach())
    var machine = WatchMachine(
      "b", at: "b:1",
      as: StreamHello(node: node.core.node, name: node.core.name, terms: nil),
      limits: node.core.limits, from: node.now)
    _ = machine.timePassed(&node.core, at: node.now)
    var rest = bytes[...]
    while !rest.isEmpty {
      let piece = rest.prefix(machine.wanted)
      rest = rest.dropFirst(piece.count)
      let orders = machine.took(
        UnsafeRawBufferPointer(rebasing: piece), &node.core, at: node.now)
      if orders.contains(.close) { break }
    }
    node.perform([])
    _ = machine.ended(nil, &node.core, at: node.now)
    node.passTime(0)
    precondition(node.core.keysAnnounced(by: "b").isEmpty, "what it announced outlives it")
  }

  /// A member that asks.
  static func serve(_ bytes: UnsafeRawBufferPointer) {
    var node = Self()
    node.seal(6, over: node.attach())
    var machine = ServeMachine(limits: node.core.limits, at: node.now)
    var rest = bytes[...]
    var (steps, sent) = (0, 0)
    loop: while steps < 2_000, sent < 1 << 20 {
      steps += 1
      switch machine.next() {
      case .over: break loop
      case .send:
        let parts = machine.parts(atMost: 1 << 16)
        precondition(!parts.isEmpty && parts.count <= ServeMachine.partsMax)
        let count = parts.reduce(0) { sum, part in
          switch part {
          case .queued: sum + machine.outgoing.count
          case .frames(let range): sum + range.count
          case .body(_, _, _, let count): sum + count
          }
        }
        // Half of it, or all.
        let some = steps % 3 == 0 ? max(1, count / 2) : count
        machine.sent(some, at: node.now)
        sent += some
      case .prepare where machine.prepare(&node.core, at: node.now): break
      case .prepare, .idle:
        guard let wanted = machine.wanted, !rest.isEmpty else { break loop }
        let piece = rest.prefix(wanted)
        rest = rest.dropFirst(piece.count)
        guard machine.took(UnsafeRawBufferPointer(rebasing: piece), &node.core) else { break loop }
      }
    }
    machine.close(&node.core)
    precondition(node.core.report.servingPins == 0, "a pin is lost")
    precondition(node.core.isDrained, "an answer is counted that is over")
  }

  /// A member that answers.
  static func pull(_ bytes: UnsafeRawBufferPointer) {
    let keys = (0..<4).map { BlockKey(high: 9, low: $0) }
    var machine = PullMachine(
      hello: StreamHello(node: Incarnation(high: 1, low: 1), name: "a", terms: terms),
      terms: terms, keys: keys, patience: .seconds(1), limits: Limits(),
      at: LocalInstant(nanoseconds: 1))
    var rest = bytes[...]
    while !rest.isEmpty {
      var step: PullMachine.Step
      switch machine.need {
      case .frame(let wanted):
        let piece = rest.prefix(wanted)
        rest = rest.dropFirst(piece.count)
        step = machine.took(UnsafeRawBufferPointer(rebasing: piece))
      case .body(_, let rank, let offset, let wanted):
        precondition(rank == 0 && offset + wanted == terms.blockBytes, "beyond a slot")
        let count = min(wanted, rest.count)
        rest = rest.dropFirst(count)
        step = machine.took(count)
      case .dropped(let wanted):
        let count = min(wanted, rest.count)
        rest = rest.dropFirst(count)
        step = machine.took(count)
      }
      if case .arriving(let position) = step {
        step = machine.place(
          !keys.indices.contains(position)
            ? .invalid : position == 2 ? .skip : .write(SlotIndex(1), generation: 1))
      }
      if case .ended = step { return }
    }
  }
}

import ContentDigest
import KVTransfer
import LocalStore
import RemoteG2Core

/// What must hold, and where it is looked at.
extension FleetWorld {
  private func bytes(
    _ process: FleetProcess, _ number: PoolNumber, _ slot: SlotIndex, _ rank: Int
  ) -> [UInt8]? {
    process.memory[number].map {
      Array(
        UnsafeRawBufferPointer(
          start: $0[rank].memory.region.pointer(to: slot.index), count: blockBytes))
    }
  }

  private func model(of number: PoolNumber, _ process: FleetProcess) -> Int? {
    (0...1).first { model in
      process.core.poolNumber(
        of: PoolTerms(fingerprint: fingerprint(of: model), blockBytes: blockBytes)) == number
    }
  }

  // MARK: Slots

  /// I2: one writer, of a slot that nobody may be reading.
  func beginsWriting(_ slot: SlotIndex, _ number: PoolNumber, _ process: FleetProcess) {
    if !process.writing[number, default: []].insert(slot).inserted {
      violate(.quietBeforeReuse, "\(slot) of \(process.node.name) has two writers")
    }
    if let phase = process.core.phase(of: slot, in: number), phase != .writing {
      violate(.quietBeforeReuse, "\(slot) of \(process.node.name) is written while it is \(phase)")
    }
  }

  /// The planted bug's write: I2 asks whose slot it is by now.
  func writesLate(_ slot: SlotIndex, _ number: PoolNumber, _ process: FleetProcess) {
    guard process.isAlive, process.core.phase(of: slot, in: number) != nil else { return }
    if process.writing[number]?.contains(slot) != true {
      violate(.quietBeforeReuse, "\(slot) of \(process.node.name) is written by nobody's pull")
    }
  }

  /// I7: what becomes visible has the bytes of its key, on every rank.
  func checkSealed(
    _ slot: SlotIndex, _ key: BlockKey, _ process: FleetProcess, _ number: PoolNumber
  ) {
    guard let model = model(of: number, process) else { return }
    for rank in 0..<rankCount {
      guard let found = bytes(process, number, slot, rank) else { return }
      if found != golden(key, rank: rank, model: model) {
        violate(
          .visibleOnlyWhenSealed,
          "\(process.node.name) sealed wrong bytes of \(key) on rank \(rank)")
      }
    }
  }

  /// I7: so has what is granted.
  func checkGranted(
    _ blocks: [GrantedBlock], _ process: FleetProcess, _ number: PoolNumber, of engine: FleetEngine
  ) {
    for block in blocks {
      for rank in 0..<rankCount {
        guard let pool = process.memory[number]?[rank] else { return }
        if !pool.words.isReadable(block.slot, block.generation) {
          violate(.visibleOnlyWhenSealed, "\(block.slot) was granted, and cannot be read")
        }
      }
    }
  }

  // MARK: Engines

  /// I1 and I5: every token rests on KV that is right to the bit, on all ranks.
  func checkPages(_ engine: FleetEngine, _ request: FleetEngine.Request, before end: Int) {
    for place in 0..<end {
      let wrong = engine.ranks.indices.filter { rank in
        let page = UnsafeRawBufferPointer(
          start: engine.ranks[rank].pages.region.pointer(to: request.blocks[place].index),
          count: blockBytes)
        return !page.elementsEqual(golden(request.keys[place], rank: rank, model: engine.model))
      }
      guard !wrong.isEmpty else { continue }
      violate(
        wrong.contains(0) ? .failClosed : .leaderDecides,
        "\(request.id) on \(engine.node.name) rests on wrong KV in block \(place), ranks \(wrong)")
    }
  }

  /// I4: no request waits longer than its deadline.
  func checkPatience(_ engine: FleetEngine) {
    guard let due = engine.scheduler.nextDeadline else { return }
    // It is judged when it is asked about; the step that asks comes soon, unless the engine was stopped.
    if engine.now - due > .seconds(2) {
      violate(.noWaitWithoutDeadline, "a question of \(engine.node.name)'s engine is overdue")
    }
  }

  func check(_ engine: FleetEngine) {
    let counts = engine.scheduler.counts
    if counts.ready + counts.none > counts.asked {
      violate(.oneTerminalResult, "more answers than questions: \(counts)")
    }
  }

  // MARK: Nodes

  /// After everything that a node does.
  func check(_ process: FleetProcess) {
    guard process.isAlive else { return }
    let core = process.core
    // I4: its timers come when they are due, but for a moment.
    if let due = core.nextDeadline, process.now - due > .milliseconds(4),
      !process.node.isStopped, !process.wasStopped(since: due)
    {
      violate(.noWaitWithoutDeadline, "\(process.node.name) has left undone what was due")
    }
    for (question, at) in process.asked
    where process.now - at > limits.hardDeadline + .milliseconds(4)
      && !process.wasStopped(since: at)
    {
      violate(
        .noWaitWithoutDeadline, "question \(question.lease) of \(process.node.name) is overdue")
    }
    // I9
    let open = core.openCounts
    if open.questions > limits.waitersMax || open.pulls > limits.pullsMax
      || core.report.serving > limits.streamsMax
    {
      violate(.budgets, "\(process.node.name) has \(open) open, and serves \(core.report.serving)")
    }
    for number in process.memory.keys {
      guard let stats = core.stats(of: number) else { continue }
      if stats.free + stats.writing + stats.sealed != stats.slots {
        violate(.accounted, "slots of \(process.node.name) are lost: \(stats)")
      }
      if stats.writing != process.writing[number, default: []].count {
        violate(.quietBeforeReuse, "\(process.node.name) counts other writers than there are")
      }
    }
  }

  /// Whoever looks up a key that a node has, or that some member announces, finds it.
  func checkKnown(_ process: FleetProcess) {
    let announced = process.core.keysOfMembers.flatMap { $0 }
    for key in process.core.sealedKeys.union(announced) where !process.known.table.mayHave(key) {
      violate(.accounted, "\(process.node.name)'s engines cannot know of \(key)")
    }
  }

  func noteEnd(_ end: PullEnd) {
    switch end {
    case .stalled: stats.stalls += 1
    case .invalid: stats.invalid += 1
    case .busy: stats.busy += 1
    case .served, .unneeded, .lacking, .refused, .broken: break
    }
    if end == .stalled || end == .broken || end == .busy { stats.takeovers += 1 }
  }

  // MARK: The end

  /// What is not as it must be once nothing goes wrong any more.
  var leftovers: [(Invariant, String)] {
    var found: [(Invariant, String)] = []
    for node in nodes {
      guard let process = node.process else { continue }
      let report = process.core.report
      for engine in node.engines {
        if !engine.requests.isEmpty {
          let states = engine.requests.values.sorted { $0.id < $1.id }.map {
            "\($0.id) \($0.state), \($0.computed) of \($0.keys.count)"
          }
          found.append((.recomputeIsNormal, "requests never end: \(states)"))
        }
        if !engine.scheduler.isAttached, report.pools.contains(where: { $0.slots > 0 }),
          !isRefused(engine, process)
        {
          found.append((.sideServiceMayVanish, "an engine of \(node.name) does not find its node"))
        }
      }
      for member in report.members where member.standing != "connected" {
        found.append(
          (.sideServiceMayVanish, "\(node.name) says that \(member.name) is \(member.standing)"))
      }
      let held =
        report.waiting + report.pulling + report.serving + report.servingPins
        + process.core.committedCount
        + report.pools.reduce(0) { $0 + $1.writing + $1.pinned + $1.staged + $1.leases }
      if held != 0 {
        let pools = report.pools.map {
          "writing \($0.writing) pinned \($0.pinned) staged \($0.staged) leases \($0.leases)"
        }
        let open =
          "waiting \(report.waiting) pulling \(report.pulling) serving \(report.serving)"
          + " with \(report.servingPins) pins"
        found.append((.accounted, "\(node.name) holds for nobody: \(open); \(pools)"))
      }
      // One count for each who has a key, and none for anybody else.
      let counted = FleetKnownKeys(count: limits.knownKeysBytes)
      for key in process.core.sealedKeys { counted.note(key) }
      for key in process.core.keysOfMembers.flatMap({ $0 }) { counted.note(key) }
      if !counted.table.isSame(as: process.known.table) {
        found.append((.accounted, "\(node.name)'s table of known keys has lost count"))
      }
      // A name that was changed on its way is advice like any other: nobody checks it but who follows it.
      for other in nodes where other !== node && weights.corruption == 0 {
        guard let theirs = other.process?.core else { continue }
        let (told, held) = (process.core.keysAnnounced(by: other.name), theirs.sealedKeys)
        if told != held {
          found.append(
            (
              .accounted,
              "of \(other.name)'s blocks \(node.name) lacks \(held.subtracting(told).count) and has "
                + "\(told.subtracting(held).count) too many"
            ))
        }
      }
    }
    return found
  }

  /// A node whose memory another model's engine has has none for it.
  private func isRefused(_ engine: FleetEngine, _ process: FleetProcess) -> Bool {
    process.core.poolNumber(
      of: PoolTerms(fingerprint: engine.fingerprint, blockBytes: blockBytes)) == nil
  }

  func checkEnd() {
    for node in nodes {
      for engine in node.engines {
        engine.hear()
        engine.flush()
      }
    }
    for (invariant, what) in leftovers { violate(invariant, what) }
  }
}

/// How a prefix that an engine wants comes together: from the own pool, and for the rest from members.
extension NodeCore {
  mutating func want(
    _ wanted: WantedPrefix, _ number: PoolNumber, at now: LocalInstant
  ) -> [NodeAction] {
    let id = Waiter.ID(engine: wanted.engine, serial: wanted.serial)
    guard waiters[id] == nil, let place = pools.index(forKey: number) else { return [] }
    guard waiters.count < limits.waitersMax, !wanted.keys.isEmpty else {
      count(.overBudget)
      return give(wanted, number, at: now)
    }
    let have = wanted.keys.prefix {
      pools.values[place].ledger.pool.slot(holding: $0) != nil
    }.count
    let missing = wanted.keys.count - have
    var patience = limits.hardDeadline
    if wanted.pace > .zero {
      patience = min(patience, wanted.pace * missing * (1 + limits.regretMax))
    }
    waiters[id] = Waiter(
      wanted: wanted, pool: number, startedAt: now, deadline: now + patience, missing: missing)
    return advance(id, at: now)
  }

  /// Answers a waiter, or finds out whom to wait for.
  private mutating func advance(_ id: Waiter.ID, at now: LocalInstant) -> [NodeAction] {
    guard let waiter = waiters[id] else { return [] }
    let keys = waiter.wanted.keys
    guard pinPrefix(id) else { return answer(id, .overBudget, at: now) }
    let have = waiters[id]?.pinned.count ?? 0
    guard have < keys.count else { return answer(id, nil, at: now) }
    if let stream = spans.first(where: { isFetching(keys[have], $0.value, waiter.pool) })?.key {
      return wait(id, for: stream)
    }
    guard spans.count < limits.pullsMax else { return answer(id, .overBudget, at: now) }
    let (chosen, shortfall) = holder(of: keys[have...], for: waiter, at: now)
    guard let chosen else {
      return waitForSpread(id, at: now) ?? answer(id, shortfall, at: now)
    }
    let stream = nextStream()
    let span = Array(keys[have..<have + chosen.run])
    guard let terms = terms(of: waiter.pool) else { preconditionFailure("a waiter has a pool") }
    spans[stream] = Span(
      pool: waiter.pool, member: chosen.member, keys: span,
      parent: have > 0 ? keys[have - 1] : nil, bytesOfBlock: terms.bytesOfAllRanks,
      startedAt: now)
    members[chosen.member]?.pullCount += 1
    let patience = members[chosen.member]?.patience(limits) ?? limits.streamStallMin
    return [
      .pull(stream, from: chosen.member, waiter.pool, terms, keys: span, patience: patience)
    ] + wait(id, for: stream)
  }

  private mutating func wait(_ id: Waiter.ID, for stream: StreamID) -> [NodeAction] {
    waiters[id]?.waitsFor = stream
    let pinned = waiters[id]?.pinned.count ?? 0
    waiters[id]?.pinnedBefore = pinned
    return tellPending(id)
  }

  /// Whoever has it is busy sending it to others, who will have it for us: it is worth a moment.
  ///
  /// - Returns: Nil when it is not, or not any more.
  private mutating func waitForSpread(_ id: Waiter.ID, at now: LocalInstant) -> [NodeAction]? {
    guard let waiter = waiters[id], waiter.isSpreading,
      let again = waiter.busy.values.filter({ $0 > now }).min(),
      again < min(waiter.deadline, waiter.startedAt + limits.spreadWaitMax)
    else { return nil }
    waiters[id]?.looksAgainAt = again
    return tellPending(id)
  }

  /// Those that wait for nobody look whether somebody has it by now.
  mutating func lookAgain(at now: LocalInstant) -> [NodeAction] {
    var actions: [NodeAction] = []
    for id in waiters.values.filter({ $0.looksAgainAt.map { $0 <= now } ?? false }).map(\.id)
      .sorted()
    {
      waiters[id]?.looksAgainAt = nil
      actions += advance(id, at: now)
    }
    return actions
  }

  private mutating func tellPending(_ id: Waiter.ID) -> [NodeAction] {
    guard let waiter = waiters[id], !waiter.isToldPending else { return [] }
    waiters[id]?.isToldPending = true
    return [
      .local(
        .send(waiter.wanted.connection, .pending(lease: waiter.wanted.serial)), pool: waiter.pool)
    ]
  }

  private func isFetching(_ key: BlockKey, _ span: Span, _ pool: PoolNumber) -> Bool {
    span.pool == pool && !span.isCancelled && span.keys[span.next...].contains(key)
  }

  /// The member that announces the most of it, among those that are not known to be of no use. One that was busy is
  /// asked again only when nobody else has any of it.
  private func holder(
    of keys: ArraySlice<BlockKey>, for waiter: Waiter, at now: LocalInstant
  ) -> ((member: PeerName, run: Int)?, NodeShortfall) {
    guard let terms = terms(of: waiter.pool) else { return (nil, .noHolder) }
    var best: (member: PeerName, run: Int)?
    var shortfall = waiter.tried.isEmpty ? NodeShortfall.noHolder : .failed
    let runs = index.runs(of: keys)
    for (name, member) in members.sorted(by: { $0.key < $1.key })
    where member.standing == .watched && !waiter.tried.contains(name)
      && waiter.busy[name].map({ $0 <= now }) ?? true && member.pools.contains(terms)
    {
      guard let run = runs[name] else { continue }
      let bytes = Double(run * terms.bytesOfAllRanks)
      if let rate = member.rate(limits, at: now), waiter.wanted.pace > .zero,
        bytes / rate * Double(1 + member.pullCount) > (waiter.wanted.pace * run).inSeconds
      {
        shortfall = .cost
        continue
      }
      let wasBusy = waiter.busy[name] != nil
      let isBetter =
        best.map { other in
          guard (waiter.busy[other.member] != nil) == wasBusy else { return !wasBusy }
          return run > other.run || (run == other.run && member.pullCount < pulls(other.member))
        } ?? true
      if isBetter { best = (name, run) }
    }
    return (best, shortfall)
  }

  private func pulls(_ member: PeerName) -> Int { members[member]?.pullCount ?? 0 }

  /// Pins what is sealed of a waiter's prefix, beyond what is pinned for it already.
  ///
  /// - Returns: False when too much is pinned.
  private mutating func pinPrefix(_ id: Waiter.ID) -> Bool {
    guard
      let (number, keys, count) = waiters[id].map({ ($0.pool, $0.wanted.keys, $0.pinned.count) }),
      let (slots, isAllowed) = inPool(number, { $0.pinPrefix(keys, from: count) })
    else { return true }
    waiters[id]?.pinned += slots
    return isAllowed
  }

  /// Gives a waiter what is here.
  mutating func answer(
    _ id: Waiter.ID, _ shortfall: NodeShortfall?, at now: LocalInstant
  ) -> [NodeAction] {
    guard let waiter = waiters[id] else { return [] }
    if let shortfall { count(shortfall) }
    let actions = give(waiter.wanted, waiter.pool, at: now)
    return actions + forget(id)
  }

  private mutating func give(
    _ wanted: WantedPrefix, _ number: PoolNumber, at now: LocalInstant
  ) -> [NodeAction] {
    let actions = withPool(number) { $0.desk.answer(wanted, &$0.ledger, at: now) }
    for case .local(.send(_, .found(_, let blocks, _)), _) in actions {
      blocksAnswered += UInt64(blocks.count)
    }
    return actions
  }

  /// A waiter is answered, or has gone. A pull that nobody waits for ends.
  mutating func forget(_ id: Waiter.ID) -> [NodeAction] {
    guard let waiter = waiters.removeValue(forKey: id) else { return [] }
    inPool(waiter.pool) { $0.unpin(waiter.pinned) }
    guard let stream = waiter.waitsFor, spans[stream]?.isCancelled == false,
      !waiters.values.contains(where: { $0.waitsFor == stream })
    else { return [] }
    spans[stream]?.isCancelled = true
    return [.cancel(stream)]
  }

  mutating func dropWaiters(of connection: ConnectionID, at now: LocalInstant) -> [NodeAction] {
    let ids = waiters.values.filter { $0.wanted.connection == connection }.map(\.id)
    return ids.sorted().flatMap { forget($0) }
  }

  private mutating func count(_ shortfall: NodeShortfall) { shortfalls[shortfall, default: 0] += 1 }

  // MARK: What arrives

  /// The first byte of an answer has come.
  package mutating func answerBegan(_ stream: StreamID, after: Duration) {
    guard let member = spans[stream]?.member else { return }
    members[member]?.noteFirstByte(after: after)
  }

  /// A block's frame is here, and its bytes follow.
  package mutating func arriving(_ stream: StreamID, position: Int) -> BlockArrival {
    guard let span = spans[stream], !span.isCancelled else { return .stop }
    guard span.writing == nil, position == span.next, position < span.keys.count else {
      return .invalid
    }
    let key = span.keys[position]
    let parent = position > 0 ? span.keys[position - 1] : span.parent
    switch inPool(span.pool, { $0.ledger.pool.begin(key, after: parent, isCopy: true) }) {
    case nil: return .stop
    case .reserved(let slot, let generation):
      spans[stream]?.writing = (slot, generation)
      return .write(slot, generation: generation)
    // Another engine of this host has computed it meanwhile, or is having it copied.
    case .present: return .skip
    case .full: return .stop
    }
  }

  /// All bytes of the block that was arriving are here, and nothing will write them again.
  ///
  /// - Parameter digests: Of the slots' bytes, by rank, and equal to those that came with them; nil when they
  ///   are not, or when the bytes did not all come. Ignored for a block that was skipped.
  package mutating func arrived(
    _ stream: StreamID, digests: [Digest128]?, at now: LocalInstant
  ) -> [NodeAction] {
    guard let span = spans[stream] else { return [] }
    if let (slot, generation) = span.writing {
      spans[stream]?.writing = nil
      guard let digests else {
        inPool(span.pool) { $0.ledger.pool.abandon(slot, generation: generation) }
        return []
      }
      inPool(span.pool) {
        $0.ledger.pool.seal(slot, generation: generation, digests: digests)
      }
      blocksPulled += 1
      bytesPulled += UInt64(span.bytesOfBlock)
    }
    spans[stream]?.next += 1
    var actions: [NodeAction] = []
    for id in waiters.values.filter({ $0.waitsFor == stream }).map(\.id).sorted() {
      actions += landed(id, stream, at: now)
    }
    // Members hear at once what others may want, but are not woken for every small block of a long answer.
    let told = (span.next + 1) * span.bytesOfBlock / limits.feedWakeBytes
    let isMuch = told > span.next * span.bytesOfBlock / limits.feedWakeBytes
    return actions + news(of: span.pool, wakes: isMuch)
  }

  /// Looks whether it is worth it for a waiter to wait for the rest.
  private mutating func landed(
    _ id: Waiter.ID, _ stream: StreamID, at now: LocalInstant
  ) -> [NodeAction] {
    guard pinPrefix(id), let waiter = waiters[id], let span = spans[stream] else {
      return answer(id, .overBudget, at: now)
    }
    let left = waiter.wanted.keys.count - waiter.pinned.count
    guard left > 0 else { return answer(id, nil, at: now) }
    guard waiter.wanted.pace > .zero else { return [] }
    let perBlock = (now - span.startedAt) / span.next
    let whole = now - waiter.startedAt + perBlock * blocksToCome(span, waiter)
    guard whole > waiter.wanted.pace * waiter.missing * (1 + limits.regretMax) else { return [] }
    return answer(id, .outpaced, at: now)
  }

  /// How many blocks must come until a waiter has what it wants of a span: it may want less of it than another.
  private func blocksToCome(_ span: Span, _ waiter: Waiter) -> Int {
    let (keys, have) = (waiter.wanted.keys, waiter.pinned.count)
    guard have < keys.count,
      let first = span.keys[span.next...].firstIndex(of: keys[have])
    else { return span.keys.count - span.next }
    return first - span.next + min(span.keys.count - first, keys.count - have)
  }

  /// Of a first block that is not whole so much has come, and the rest comes so fast. A look this early may be wrong, so
  /// only what is plainly too slow is given up, and remembered.
  package mutating func paced(
    _ stream: StreamID, bytesPerSecond: Double, received: Int, at now: LocalInstant
  ) -> [NodeAction] {
    guard let span = spans[stream], span.next == 0, !span.isCancelled, bytesPerSecond > 0 else {
      return []
    }
    var actions: [NodeAction] = []
    for id in waiters.values.filter({ $0.waitsFor == stream }).map(\.id).sorted() {
      guard let waiter = waiters[id], waiter.wanted.pace > .zero else { continue }
      let patience = (waiter.wanted.pace * waiter.missing * (1 + limits.regretMax)).inSeconds
      let rest = Double(blocksToCome(span, waiter) * span.bytesOfBlock - received) / bytesPerSecond
      let whole = (now - waiter.startedAt).inSeconds + rest
      guard whole > patience * limits.paceDoubt else { continue }
      members[span.member]?.bytesPerSecond = bytesPerSecond
      members[span.member]?.measuredAt = now
      actions += answer(id, .outpaced, at: now)
    }
    return actions
  }

  /// Nothing more comes, and nothing more is written.
  ///
  /// - Parameter others: Who is being sent the same, where the member was busy with that.
  package mutating func ended(
    _ stream: StreamID, _ end: PullEnd, others: [PeerName] = [], at now: LocalInstant
  ) -> [NodeAction] {
    guard let span = spans.removeValue(forKey: stream) else { return [] }
    if let (slot, generation) = span.writing {
      inPool(span.pool) { $0.ledger.pool.abandon(slot, generation: generation) }
    }
    noteEnd(span, end, at: now)
    var actions: [NodeAction] = []
    for id in waiters.values.filter({ $0.waitsFor == stream }).map(\.id).sorted() {
      waiters[id]?.waitsFor = nil
      _ = pinPrefix(id)
      let gained = waiters[id].map { $0.pinned.count > $0.pinnedBefore } ?? false
      // Whoever says that it has sent all, and has not, is not asked again.
      let since = waiters[id].map { now - $0.startedAt } ?? .zero
      if end == .busy, !others.isEmpty, since < limits.spreadWaitMax {
        waiters[id]?.busy[span.member] = now + limits.spreadPause
        waiters[id]?.isSpreading = true
      } else if end != .served || span.next < span.keys.count || !gained {
        waiters[id]?.tried.insert(span.member)
      }
      actions += advance(id, at: now)
    }
    return actions + news()
  }

  private mutating func noteEnd(_ span: Span, _ end: PullEnd, at now: LocalInstant) {
    // It may have left and come again meanwhile.
    if let count = members[span.member]?.pullCount, count > 0 {
      members[span.member]?.pullCount = count - 1
    }
    members[span.member]?.ends[end, default: 0] += 1
    let elapsed = (now - span.startedAt).inSeconds
    let bytes = span.next * span.bytesOfBlock
    if bytes > 0, elapsed > 0 {
      let rate = Double(bytes) / elapsed
      let old = members[span.member]?.rate(limits, at: now) ?? rate
      members[span.member]?.bytesPerSecond = old + 0.25 * (rate - old)
      members[span.member]?.measuredAt = now
    } else if span.isCancelled, now - span.startedAt >= limits.streamStallMin {
      // Not one block came in all that time: it is no faster than that.
      let most = Double(span.bytesOfBlock) / elapsed
      if most < members[span.member]?.rate(limits, at: now) ?? .infinity {
        members[span.member]?.bytesPerSecond = most
        members[span.member]?.measuredAt = now
      }
    }
    switch end {
    case .stalled, .broken, .invalid:
      guard !span.isCancelled else { return }
      // Until its feed is heard again nobody waits for it.
      if members[span.member]?.standing == .watched { members[span.member]?.standing = .doubted }
    // What it lacks its feed says, in its own order: it may have sealed the block since it answered.
    case .lacking, .served, .unneeded, .busy, .refused: break
    }
  }
}

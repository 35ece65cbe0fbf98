public import RemoteG2Core

extension RemoteG2Connector {
  // MARK: The step

  public func plan(at now: LocalInstant) -> [RankOrder] { orders.takePlan() }

  /// Absorbs a step in this order: what ranks staged or could not; which sources they could attach, and what
  /// their loads have come to; the control client's answers; cancels of fetches whose request has left; and
  /// last the deadlines.
  public func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome {
    hasNews = false
    if rankCounts.count < reports.count {
      rankCounts += Array(repeating: RankCounts(), count: reports.count - rankCounts.count)
    }
    for index in reports.indices { rankCounts[index] = reports[index].counts }
    for report in reports { absorbSaves(report) }
    for report in reports { absorbLoads(report, at: now) }
    for answer in control.drain() { absorb(answer, at: now) }
    for fetch in requests.takeAbandoned() {
      guard let record = fetches[fetch] else { continue }
      perform(record.machine.cancelled(), record, at: now)
    }
    // Judged last, so that no deadline fires over a landing that was already in the mailbox.
    for record in fetches.takeDue(at: now) {
      if record.machine.isMoving { record.dueAt = record.machine.nextDeadline }
      perform(record.machine.timePassed(at: now), record, at: now)
    }
    fetches.dropStale()
    let taken = outcome
    outcome = ConnectorOutcome()
    return taken
  }

  private func absorbLoads(_ report: RankReport, at now: LocalInstant) {
    if !report.attached.isEmpty {
      for (number, isAttached) in report.attached.sorted(by: { $0.key < $1.key }) {
        if let source = sources.reported(number, isAttached, by: report.rank) {
          control.attachFailed(source)
        }
      }
    }
    for store in report.unlinked where sources.unlinked(.local(store)) {
      control.attachFailed(.local(store))
    }
    for (source, moved) in report.bytesMoved {
      estimator.moved(bytes: moved.bytes, from: source.name, in: moved.duration)
    }
    guard !report.progress.isEmpty else { return }
    for fetch in report.progress.keys.sorted() {
      guard let record = fetches[fetch], var progress = report.progress[fetch] else { continue }
      if report.rank > 0, let at = report.at {
        // Durations travel, instants do not: how long ago it was is told in the leader's time.
        progress.lastLanding = progress.lastLanding.map { now + ($0 - at) }
        progress.stalledAt = progress.stalledAt.map { now + ($0 - at) }
      }
      if record.machine.isMoving, let stalled = progress.stalledAt { record.dueAt = stalled }
      perform(
        record.machine.rankReported(report.rank, progress, at: now), record, at: now)
      narrowQuarantine(of: record, at: now)
    }
  }

  /// At the settle every block after the landed ones had to count as unquiet. Once all ranks have
  /// confirmed their stop, only what is posted still does; the others come back now.
  private func narrowQuarantine(of record: FetchRecord, at now: LocalInstant) {
    guard !record.unquiet.isEmpty, let moving = record.machine.unquietOnceStopped else { return }
    let kept = Set(
      moving.compactMap { position in
        record.targets.indices.contains(position) ? record.targets[position] : nil
      })
    let freed = record.unquiet.filter { !kept.contains($0) }
    guard !freed.isEmpty else { return }
    record.unquiet.removeAll { !kept.contains($0) }
    quarantine.remove(freed.count, of: record.source)
    outcome.quieted += freed
  }

  private func absorb(_ answer: ControlAnswer, at now: LocalInstant) {
    switch answer {
    case .resolved(let fetch, let answer, let duration):
      resolved(fetch, answer, after: duration, at: now)
    case .confirmed(let fetch, let answer):
      guard let record = fetches[fetch] else { return }
      var counted = answer
      switch answer {
      case .intact(let count)?: counted = .intact(max(0, count - record.skipped))
      case .gone?: expired(record, at: now)
      case nil: break
      }
      if answer != nil { tell(.confirmed, record, at: now) }
      perform(record.machine.confirmAnswered(counted, at: now), record, at: now)
    // This connector wants nothing: it asks for what is there.
    case .pending: break
    case .wanted(let batch, let source, let places): wanted(batch, source, places)
    case .saved(let source, let outcomes): saves.ended(source, outcomes)
    case .leaseEnded(let source, let lease):
      // Unknown: the fetch closed while its last renewal was on its way.
      guard
        let record = fetches.records.values.first(where: {
          $0.source == source && $0.grant?.lease == lease
        })
      else { return }
      expired(record, at: now)
      perform(record.machine.leaseEnded(at: now), record, at: now)
    case .announced(let source, let addresses):
      orders.append(.attach(sources.announced(source), source, addresses))
    case .sourceDied(let source):
      sources.died(source)
      outcome.released += saves.died(source)
      estimator.forget(source.name)
      orders.append(.sourceDied(source))
      for fetch in fetches.records.keys.sorted() {
        guard let record = fetches[fetch], record.source == source else { continue }
        perform(record.machine.peerWentDown(at: now), record, at: now)
      }
    }
  }

  private func expired(_ record: FetchRecord, at now: LocalInstant) {
    guard !record.isExpired, !record.machine.isSettled else { return }
    record.isExpired = true
    tell(.expired, record, at: now)
  }

  private func resolved(
    _ fetch: FetchID, _ answer: ResolveAnswer?, after duration: Duration, at now: LocalInstant
  ) {
    // The fetch ended while the source was being asked, and released the lease by its name; or a call
    // was answered twice.
    guard let record = fetches[fetch], !record.isAnswered else { return }
    record.isAnswered = true
    if answer != nil { estimator.answered(record.source.name, after: duration) }
    switch answer {
    case .granted(let grant) where isSound(grant, for: record):
      // Under the name it was asked for: what another would be called is no matter.
      record.grant = Grant(lease: record.machine.lease, ttl: grant.ttl, blocks: grant.blocks)
      let count = grant.blocks.count
      tell(
        count == record.keys.count ? .resolved(blocks: count) : .truncated(blocks: count), record,
        at: now)
      perform(record.machine.resolveGranted(blocks: grant.blocks.count), record, at: now)
    case .granted:
      // The peer's fault. It may have pinned something all the same.
      perform(record.machine.resolveRefused(.refused, isRefused: false), record, at: now)
    case .refused(let refusal):
      let reason: FallbackReason =
        switch refusal {
        case .gone: .gone
        case .overBudget: .overBudget
        case .invalid: .refused
        }
      perform(record.machine.resolveRefused(reason, isRefused: true), record, at: now)
    case nil:
      perform(record.machine.resolveRefused(.unreachable, isRefused: false), record, at: now)
    }
  }

  /// Something, not more than was asked for, and of every block one digest a rank: a source that would
  /// have us plan with more is refused.
  private func isSound(_ grant: Grant, for record: FetchRecord) -> Bool {
    !grant.blocks.isEmpty && grant.blocks.count <= record.keys.count
      && grant.blocks.allSatisfy { $0.digests.count == settings.rankCount }
  }

  // MARK: Carrying out

  func perform(_ actions: [FetchAction], _ record: FetchRecord, at now: LocalInstant) {
    fetches.note(record)
    let fetch = record.machine.id
    for action in actions {
      switch action {
      // Told to the engine by the request's next match.
      case .bind: hasNews = true
      case .start:
        let moves = zip(record.targets, record.granted).map {
          BlockMove(target: $0, source: $1.slot, generation: $1.generation)
        }
        orders.append(
          .load(fetch, from: record.source, moves: moves, stall: stall(of: record)))
        tell(.started(blocks: moves.count), record, at: now)
      case .stopPosting: orders.append(.stopPosting(fetch))
      case .confirm(let lease):
        control.post(
          .confirm(
            fetch, record.source, lease, timeout: answerTimeout(blocks: record.targets.count)))
      case .checkDigests(let leading):
        let expected = zip(record.movedKeys, record.granted).prefix(leading).map {
          ExpectedBlock(key: $0, digests: $1.digests)
        }
        orders.append(.checkDigests(fetch, expected))
      case .release(let lease):
        control.post(.release(record.source, lease))
        tell(.released, record, at: now)
      case .settle(let result): settle(result, record, at: now)
      case .close: close(record, at: now)
      }
    }
  }

  /// How long a source may take to answer a question about that many blocks: a twentieth of what computing
  /// them would take.
  func answerTimeout(blocks: Int) -> Duration {
    let recompute = estimator.recomputeTime(tokens: blocks * settings.tokensPerBlock)
    return min(settings.limits.resolveMax, max(settings.limits.resolveMin, recompute / 20))
  }

  /// How long the node may take to fetch that many blocks: its own deadline comes first, where it is well.
  func fetchTimeout(blocks: Int, pace: Duration) -> Duration {
    let limits = settings.limits
    return min(limits.hardDeadline, pace * blocks * (1 + limits.regretMax)) + limits.ownAnswerMax
  }

  private func settle(_ result: FetchResult, _ record: FetchRecord, at now: LocalInstant) {
    let fetch = record.machine.id
    let isCancelled = result.reason == .cancelled
    let valid = isCancelled ? 0 : min(result.valid, record.targets.count)
    let sealed = zip(record.targets, zip(record.movedKeys, record.granted)).prefix(valid).map {
      SealedBlock(block: $0, key: $1.0, digests: $1.1.digests)
    }
    let failed = Array(record.targets.dropFirst(valid))
    record.unquiet = result.unquiet.compactMap {
      record.targets.indices.contains($0) ? record.targets[$0] : nil
    }
    quarantine.add(record.unquiet.count, of: record.source)
    fetches.settled(record)
    requests.settled(fetch, for: record.request)
    // A local store that has nothing is an ordinary miss, not a fallback.
    let isMiss = record.source.isLocal && result.reason == .gone
    let why = isCancelled || isMiss ? nil : result.reason
    if let why { requests.note(why, for: record.request) }
    // A fallback is told before anything is marked valid; a failure that ends its request, after.
    if let why, settings.policy == .recompute {
      tell(.fallback(why, blocks: failed.count), record, at: now)
    }
    if valid > 0 {
      let tokens = valid * settings.tokensPerBlock
      tell(
        result.reason == nil ? .transferred(blocks: valid) : .salvaged(blocks: valid), record,
        at: now)
      tell(.published(blocks: valid, tokens: tokens), record, at: now)
    }
    if !record.unquiet.isEmpty {
      tell(.quarantined(blocks: record.unquiet.count), record, at: now)
    }
    hasNews = true
    outcome.settled.append(
      LoadResult(
        request: record.request, fetch: fetch, valid: sealed, failed: failed,
        unquiet: record.unquiet, reason: result.reason, settledAt: now, dueAt: record.dueAt,
        isLocal: record.source.isLocal, lastLandingAt: result.lastLanding))
    // Before it was bound a load has no blocks to lose: its request runs on whatever the policy is.
    if let why, settings.policy == .fail {
      tell(
        failed.isEmpty ? .fallback(why, blocks: 0) : .failed(why, blocks: failed.count), record,
        at: now)
    }
  }

  private func close(_ record: FetchRecord, at now: LocalInstant) {
    let fetch = record.machine.id
    if !record.targets.isEmpty { orders.append(.forget(fetch)) }
    if !record.unquiet.isEmpty {
      quarantine.remove(record.unquiet.count, of: record.source)
      outcome.quieted += record.unquiet
      tell(.quieted(blocks: record.unquiet.count), record, at: now)
    }
    fetches.remove(fetch)
  }
}

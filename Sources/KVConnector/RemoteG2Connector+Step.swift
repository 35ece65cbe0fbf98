public import RemoteG2Core

extension RemoteG2Connector {
  // MARK: The step

  public func plan(at now: LocalInstant) -> [RankOrder] {
    // Addresses can be long: one source a step.
    var announced = 0
    let end =
      orders.firstIndex {
        if case .attach = $0 { announced += 1 }
        return announced > 1
      } ?? orders.endIndex
    let taken = Array(orders[..<end])
    orders.removeSubrange(..<end)
    return taken
  }

  /// Absorbs a step in the order: saves done, load failures and landings, answers, deadlines.
  public func absorb(_ reports: [RankReport], at now: LocalInstant) -> ConnectorOutcome {
    hasNews = false
    rankCounts = reports.map(\.counts)
    for report in reports { absorbSaves(report) }
    for report in reports {
      for (source, isAttached) in report.attached {
        noteAttached(source, isAttached, by: report.rank)
      }
      for (source, moved) in report.bytesMoved {
        estimator.moved(bytes: moved.bytes, from: source.description, in: moved.duration)
      }
      for fetch in report.progress.keys.sorted() {
        guard let record = records[fetch], var progress = report.progress[fetch] else { continue }
        if report.rank > 0, let at = report.at {
          // Durations travel, instants do not: how long ago it was is told in the leader's time.
          progress.lastLanding = progress.lastLanding.map { now + ($0 - at) }
        }
        perform(
          record.machine.rankReported(report.rank, progress, at: now), record, at: now)
        narrowQuarantine(of: record, at: now)
      }
    }
    for answer in control.drain() { absorb(answer, at: now) }
    for fetch in abandoned {
      guard let record = records[fetch] else { continue }
      perform(record.machine.cancelled(), record, at: now)
    }
    abandoned = []
    // Judged last, so that no deadline fires over a landing that was already in the mailbox.
    for fetch in records.keys.sorted() {
      guard let record = records[fetch] else { continue }
      if record.machine.isMoving, let due = record.machine.nextDeadline, due <= now {
        record.dueAt = due
      }
      perform(record.machine.timePassed(at: now), record, at: now)
    }
    let taken = outcome
    outcome = ConnectorOutcome()
    return taken
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
    unquarantine(freed.count, of: record.source)
    outcome.quieted += freed
  }

  private func absorb(_ answer: ControlAnswer, at now: LocalInstant) {
    switch answer {
    case .resolved(let fetch, let answer, let duration):
      resolved(fetch, answer, after: duration, at: now)
    case .confirmed(let fetch, let answer):
      guard let record = records[fetch] else { return }
      var counted = answer
      switch answer {
      case .intact(let count)?: counted = .intact(max(0, count - record.skipped))
      case .gone?: expired(record, at: now)
      case nil: break
      }
      if answer != nil {
        emit(
          FetchEvent(
            .confirmed, at: now, request: record.request, fetch: fetch,
            peer: record.source.description))
      }
      perform(record.machine.confirmAnswered(counted, at: now), record, at: now)
    case .reserved(let batch, let reservations): reserved(batch, reservations)
    case .leaseEnded(let source, let lease):
      // Unknown: the fetch closed while its last renewal was on its way.
      guard
        let record = records.values.first(where: {
          $0.source == source && $0.grant?.lease == lease
        })
      else { return }
      expired(record, at: now)
      perform(record.machine.leaseEnded(at: now), record, at: now)
    case .announced(let source, let addresses):
      attachFailures.remove(source)
      orders.append(.attach(source, addresses))
    case .sourceDied(let source):
      if deadSources.count >= settings.limits.deadRememberedMax { deadSources.removeFirst() }
      deadSources.append(source)
      attachedRanks[source] = nil
      attachFailures.remove(source)
      estimator.forget(source.description)
      orders.append(.sourceDied(source))
      for fetch in records.keys.sorted() {
        guard let record = records[fetch], record.source == source else { continue }
        perform(record.machine.peerWentDown(at: now), record, at: now)
      }
    }
  }

  private func noteAttached(_ source: SourceID, _ isAttached: Bool, by rank: Int) {
    // It died while the rank opened it.
    guard !deadSources.contains(source) else { return }
    if isAttached {
      attachedRanks[source, default: []].insert(rank)
    } else {
      // One rank that cannot read it is enough: it is announced to all of them again.
      attachedRanks[source] = nil
      // Told once an announcement, however many ranks could not.
      if attachFailures.insert(source).inserted { control.attachFailed(source) }
    }
  }

  func isAttached(_ source: SourceID) -> Bool {
    attachedRanks[source]?.count == settings.rankCount
  }

  private func expired(_ record: FetchRecord, at now: LocalInstant) {
    guard !record.isExpired, !record.machine.isSettled else { return }
    record.isExpired = true
    emit(event(.expired, record, at: now))
  }

  private func resolved(
    _ fetch: FetchID, _ answer: ResolveAnswer?, after duration: Duration, at now: LocalInstant
  ) {
    guard let record = records[fetch] else {
      // The fetch ended while the source was being asked. Its lease must still end.
      let source = lateSources.removeValue(forKey: fetch)
      if case .granted(let grant)? = answer, let source {
        control.post(.release(source, grant.lease))
      }
      return
    }
    guard !record.isAnswered else {
      // A call that was answered twice. Its one lease is the record's own; another is given back.
      if case .granted(let grant)? = answer, grant.lease != record.grant?.lease {
        control.post(.release(record.source, grant.lease))
      }
      return
    }
    record.isAnswered = true
    if answer != nil { estimator.answered(record.source.description, after: duration) }
    switch answer {
    case .granted(let grant) where !grant.blocks.isEmpty && grant.blocks.count <= record.keys.count:
      record.grant = grant
      emit(
        FetchEvent(
          grant.blocks.count == record.keys.count ? .resolved : .truncated, at: now,
          request: record.request, fetch: fetch, lease: grant.lease.serial,
          peer: record.source.description, blocks: grant.blocks.count))
      perform(
        record.machine.resolveGranted(grant.lease, blocks: grant.blocks.count), record, at: now)
    case .granted(let grant):
      // The peer's fault: nothing, or more than was asked for.
      control.post(.release(record.source, grant.lease))
      perform(record.machine.resolveRefused(.refused), record, at: now)
    case .refused(let refusal):
      let reason: FallbackReason =
        switch refusal {
        case .gone: .gone
        case .overBudget: .overBudget
        case .invalid: .refused
        }
      perform(record.machine.resolveRefused(reason), record, at: now)
    case nil: perform(record.machine.resolveRefused(.unreachable), record, at: now)
    }
  }

  // MARK: Carrying out

  func perform(_ actions: [FetchAction], _ record: FetchRecord, at now: LocalInstant) {
    let fetch = record.machine.id
    for action in actions {
      switch action {
      // Told to the engine by the request's next match.
      case .bind: hasNews = true
      case .start:
        let moves = zip(record.targets, record.granted).map {
          BlockMove(target: $0, source: $1.slot)
        }
        orders.append(.load(fetch, from: record.source, moves: moves))
        emit(event(.started, record, at: now, blocks: moves.count))
      case .stopPosting: orders.append(.stopPosting(fetch))
      case .confirm(let lease):
        control.post(
          .confirm(fetch, record.source, lease, timeout: proofTimeout(of: record)))
      case .checkDigests(let leading):
        orders.append(
          .checkDigests(fetch, expected: record.granted.prefix(leading).map(\.digests)))
      case .release(let lease):
        control.post(.release(record.source, lease))
        emit(event(.released, record, at: now))
      case .settle(let result): settle(result, record, at: now)
      case .close: close(record, at: now)
      }
    }
  }

  private func proofTimeout(of record: FetchRecord) -> Duration {
    let recompute = estimator.recomputeTime(
      tokens: record.targets.count * settings.tokensPerBlock)
    return min(settings.limits.resolveMax, max(settings.limits.resolveMin, recompute / 20))
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
    quarantined += record.unquiet.count
    if !record.unquiet.isEmpty {
      quarantinedBySource[record.source, default: 0] += record.unquiet.count
    }
    for key in record.keys where loading[key] == fetch { loading[key] = nil }
    if history[record.request]?.active == fetch { history[record.request]?.active = nil }
    if !record.isAnswered { lateSources[fetch] = record.source }
    // A local store that has nothing is an ordinary miss, not a fallback.
    let isMiss = record.source.isLocal && result.reason == .gone
    let isFallback = result.reason != nil && !isCancelled && !isMiss
    func emitEnd(_ kind: FetchEvent.Kind, _ outcome: FetchEvent.Outcome) {
      emit(
        FetchEvent(
          kind, at: now, request: record.request, fetch: fetch,
          peer: record.source.description, blocks: failed.count, reason: result.reason,
          outcome: outcome))
    }
    if isFallback, let reason = result.reason { fallbacks[reason, default: 0] += 1 }
    // A fallback is told before anything is marked valid; a failure that ends its request, after.
    if isFallback, settings.policy == .recompute { emitEnd(.fallback, .localRecompute) }
    if valid > 0 {
      let tokens = valid * settings.tokensPerBlock
      emit(event(result.reason == nil ? .transferred : .salvaged, record, at: now, blocks: valid))
      emit(event(.published, record, at: now, blocks: valid, tokens: tokens))
    }
    if !record.unquiet.isEmpty {
      emit(event(.quarantined, record, at: now, blocks: record.unquiet.count))
    }
    hasNews = true
    outcome.settled.append(
      LoadResult(
        request: record.request, fetch: fetch, valid: sealed, failed: failed,
        unquiet: record.unquiet, reason: result.reason, settledAt: now, dueAt: record.dueAt,
        isLocal: record.source.isLocal, lastLandingAt: result.lastLanding))
    // Before it was bound a load has no blocks to lose: its request runs on whatever the policy is.
    if isFallback, settings.policy == .fail {
      if failed.isEmpty {
        emitEnd(.fallback, .localRecompute)
      } else {
        emitEnd(.failed, .failClosed)
      }
    }
  }

  private func unquarantine(_ count: Int, of source: SourceID) {
    quarantined -= count
    let left = quarantinedBySource[source, default: 0] - count
    precondition(quarantined >= 0 && left >= 0, "more blocks went quiet than were not")
    quarantinedBySource[source] = left == 0 ? nil : left
  }

  private func close(_ record: FetchRecord, at now: LocalInstant) {
    let fetch = record.machine.id
    if !record.targets.isEmpty { orders.append(.forget(fetch)) }
    if !record.unquiet.isEmpty {
      unquarantine(record.unquiet.count, of: record.source)
      outcome.quieted += record.unquiet
      emit(event(.quieted, record, at: now, blocks: record.unquiet.count))
    }
    records[fetch] = nil
  }

  private func event(
    _ kind: FetchEvent.Kind, _ record: FetchRecord, at now: LocalInstant, blocks: Int? = nil,
    tokens: Int? = nil
  ) -> FetchEvent {
    FetchEvent(
      kind, at: now, request: record.request, fetch: record.machine.id,
      lease: record.grant?.lease.serial, peer: record.source.description, blocks: blocks,
      tokens: tokens, bytes: blocks.map { $0 * settings.blockBytes })
  }
}

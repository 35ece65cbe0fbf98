/// What the node says, and when its silence is over.
extension StagedScheduler {
  public mutating func heard(_ answer: ControlAnswer, at now: LocalInstant) {
    switch answer {
    case .announced(let source, _) where source.isLocal:
      guard self.source != source else { return }
      self.source = source
      // What ranks have staged in steps before this, some over connections that outlived the scheduler half's.
      if stepNext > 1 { outgoing.append(.settled(source, step: stepNext - 1)) }
    case .sourceDied(let source) where source == self.source:
      self.source = nil
      for stage in ordered.sorted(by: { $0.key < $1.key }).flatMap(\.value.stages) { drop(stage) }
      ordered = [:]
      for id in requests.keys.sorted() where requests[id]?.source == source {
        switch requests[id]?.state {
        case .asked?, .ready?: giveUp(id)
        default: break
        }
      }
    case .pending(let fetch):
      guard let id = byFetch[fetch],
        case .asked(let at, let deadline, _)? = requests[id]?.state
      else { return }
      requests[id]?.state = .asked(at: at, deadline: deadline, isPending: true)
    case .resolved(let fetch, let answer, _): resolved(fetch, answer)
    case .saved(_, let outcomes):
      for outcome in outcomes where outcome.kind != .sealed && outcome.kind != .present {
        counts.savesLost += 1
      }
    default: break
    }
  }

  private mutating func resolved(_ fetch: FetchID, _ answer: ResolveAnswer?) {
    guard let id = byFetch[fetch], case .asked? = requests[id]?.state else { return }
    guard case .granted(let grant)? = answer else {
      counts.none += 1
      // Nothing is held there under its name.
      byFetch[fetch] = nil
      requests[id]?.lease = nil
      requests[id]?.state = .over
      return
    }
    counts.ready += 1
    requests[id]?.state = .ready(grant.blocks)
    let cursor = requests[id]?.cursor ?? 0
    requests[id]?.cursor = max(cursor, grant.blocks.count)
  }

  /// When ``match(_:local:most:at:)`` next has something new to say though the node says nothing.
  public var nextDeadline: LocalInstant? {
    requests.values.compactMap { request -> LocalInstant? in
      guard case .asked(let at, let deadline, let isPending) = request.state else { return nil }
      return isPending ? deadline : min(deadline, at + limits.ownAnswerMax)
    }.min()
  }
  public var requestCount: Int { requests.count }
  /// Requests whose prefix is being fetched.
  public var pendingCount: Int {
    requests.values.count { if case .asked = $0.state { true } else { false } }
  }
  public var isAttached: Bool { source != nil }
}

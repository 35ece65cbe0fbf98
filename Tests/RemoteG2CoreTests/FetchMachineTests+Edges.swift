import RemoteG2Core
import Testing

/// Deadlines to the nanosecond, and counts at their edges.
extension `Fetch machine` {
  @Test func `a deadline has passed at its instant, and not before`() {
    let deadlines: [(state: String, after: Duration)] = [
      ("resolving", .milliseconds(50)), ("moving", .seconds(30)),
      ("confirming", .milliseconds(100)), ("checking", .milliseconds(100)),
    ]
    for (state, after) in deadlines {
      let due = FetchStage.start + after
      var fetch = FetchStage(description: state).machine()
      let next = fetch.nextDeadline
      #expect(next == due, "\(state)")
      let early = fetch.timePassed(at: due + .nanoseconds(-1))
      let stays = fetch.stateName
      #expect(early == [] && stays == state)
      let actions = fetch.timePassed(at: due)
      let goes = fetch.stateName
      #expect(!actions.isEmpty && goes != state, "\(state)")
      _ = fetch.cancelled()
    }
  }

  @Test func `a question judged late gets as much time again, at most its own, and once`() {
    // 5 ms late is on time; a tick more is our fault.
    for (late, more) in [(5, nil), (6, 6), (40, 40), (50, 50), (9000, 50)] as [(Int, Int?)] {
      var fetch = FetchStage(description: "resolving").machine()
      let judged = FetchStage.start + .milliseconds(50 + late)
      let actions = fetch.timePassed(at: judged)
      let next = fetch.nextDeadline
      #expect(actions.isEmpty == (more != nil), "\(late) ms late")
      #expect(next == more.map { judged + .milliseconds($0) }, "\(late) ms late")
      if let next {
        let second = fetch.timePassed(at: next + .seconds(9))
        #expect(!second.isEmpty, "it was forgiven twice")
      }
      _ = fetch.cancelled()
    }
  }

  @Test func `a source may vouch for none, for some, and for no more than landed`() {
    for (policy, intact, valid) in [
      (ProofPolicy.off, -1, 0), (.off, 0, 0), (.off, 3, 3), (.off, 4, 4), (.off, 99, 4),
      (.onFailure, 4, 4), (.onFailure, 99, 4),
    ] {
      var fetch = FetchStage(description: "confirming").machine(policy: policy)
      let actions = fetch.confirmAnswered(.intact(intact), at: FetchStage.start)
      let result = FetchResult(valid: valid, matched: 4, reason: valid < 4 ? .notIntact : nil)
      #expect(actions.contains(.settle(result)), "\(policy), \(intact): \(actions)")
      _ = fetch.cancelled()
    }
    for intact in 0..<4 {
      var fetch = FetchStage(description: "confirming").machine()
      let actions = fetch.confirmAnswered(.intact(intact), at: FetchStage.start)
      #expect(actions == [.checkDigests(leading: 4)], "what it does not vouch for is digested")
      _ = fetch.cancelled()
    }
  }

  @Test func `nothing counts as matched before it was bound`() {
    for state in ["resolving", "granted"] {
      let ends: [(FallbackReason, (inout FetchMachine) -> [FetchAction])] = [
        (.cancelled, { $0.cancelled() }), (.peerDown, { $0.peerWentDown(at: FetchStage.start) }),
      ]
      for (reason, end) in ends {
        var fetch = FetchStage(description: state).machine()
        let actions = end(&fetch)
        #expect(actions.contains(.settle(FetchResult(valid: 0, matched: 0, reason: reason))))
      }
    }
    var timed = FetchStage(description: "resolving").machine()
    let late = timed.timePassed(at: FetchStage.start + .milliseconds(50))
    #expect(late.contains(.settle(FetchResult(valid: 0, matched: 0, reason: .resolveTimedOut))))
    var ended = FetchStage(description: "granted").machine()
    let over = ended.leaseEnded(at: FetchStage.start)
    #expect(over.contains(.settle(FetchResult(valid: 0, matched: 0, reason: .leaseEnded))))
    var refused = FetchStage(description: "granted").machine()
    let noBlocks = refused.bindRefused()
    #expect(noBlocks.contains(.settle(FetchResult(valid: 0, matched: 0, reason: .noBlocks))))
    var gone = FetchStage(description: "resolving").machine()
    let none = gone.resolveRefused(.gone, isRefused: true)
    #expect(none.contains(.settle(FetchResult(valid: 0, matched: 0, reason: .gone))))
  }

  @Test func `the last landing of any rank is the result's`() {
    var fetch = FetchStage(description: "moving").machine(policy: .off, ranks: 2)
    for (rank, milliseconds) in [(0, 7), (1, 3)] {
      _ = fetch.rankReported(
        rank,
        RankProgress(
          landed: 4, posting: .ended,
          lastLanding: FetchStage.start + .milliseconds(milliseconds)), at: FetchStage.start)
    }
    let actions = fetch.confirmAnswered(.intact(4), at: FetchStage.start)
    #expect(
      actions.contains(
        .settle(
          FetchResult(
            valid: 4, matched: 4, reason: nil, lastLanding: FetchStage.start + .milliseconds(7)))))
  }
}

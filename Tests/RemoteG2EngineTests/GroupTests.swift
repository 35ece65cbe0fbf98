import Collectives
import KVConnector
import KVTransfer
import RemoteG2Core
import RemoteG2Engine
import RemoteG2EngineTesting
import Testing
import TransferRig

/// Any rank, at any moment, in any way: the group uses the same tokens.
@Suite(.serialized) struct `A rank group` {
  static let prompt = (0..<50).map { Int32($0 * 7 % 64) }

  /// Every rank entered every collective as often as every other.
  static func expectTogether(_ world: GroupWorld) {
    let entries = world.group.entries
    #expect(Set(entries.broadcasts).count == 1 && Set(entries.gathers).count == 1)
    #expect(Set(entries.sums).count == 1, "\(entries.sums)")
    #expect(entries.broadcasts == entries.gathers && entries.sums[0] > 0)
  }

  @Test(arguments: [2, 3, 4]) func `a whole pull keeps everything, on every rank`(
    ranks: Int
  ) throws {
    let world = try GroupWorld(ranks)
    let golden = try #require(try world.leader.fillPeer(Self.prompt))
    try world.leader.submit(1, Self.prompt)
    let result = world.leader.finish(1)
    #expect(result?.account.keptTokens == 48)
    `The engine`.expectSame(result, golden)
    world.leader.run(3)
    #expect(world.end() == [])
    Self.expectTogether(world)
  }

  @Test(arguments: [2, 3, 4], GroupFault.Kind.allCases)
  func `any ranks may fail, and all settle on the same value`(
    ranks: Int, kind: GroupFault.Kind
  ) throws {
    try expectOneValue(ranks, kind, isStaggered: false)
  }

  @Test(arguments: [2, 3, 4], [GroupFault.Kind.failsMidway, .isCorrupt])
  func `ranks that fail at different blocks settle on the first in the order of blocks`(
    ranks: Int, kind: GroupFault.Kind
  ) throws {
    try expectOneValue(ranks, kind, isStaggered: true)
  }

  /// On every non-empty subset of the ranks.
  private func expectOneValue(
    _ ranks: Int, _ kind: GroupFault.Kind, isStaggered: Bool
  ) throws {
    for subset in 1..<(1 << ranks) {
      let failing = Set((0..<ranks).filter { subset >> $0 & 1 == 1 })
      let fault = GroupFault(kind, on: failing, isStaggered: isStaggered)
      let world = try GroupWorld(ranks, fault: fault)
      let leader = world.leader
      let golden = try #require(try leader.fillPeer(Self.prompt))
      let releases = leader.control.releases.count
      try leader.submit(1, Self.prompt)
      let result = leader.finish(1)
      let name = "\(kind) on ranks \(failing.sorted()) of \(ranks)"
      `The engine`.expectSame(result, golden)
      let kept = result?.account.keptTokens ?? -1
      let wanted = fault.kept(of: 12)
      #expect(kept % 4 == 0 && wanted.contains(kept / 4), "\(name): \(kept), not \(wanted)")
      // What still hangs ends with its source.
      leader.control.answers.append(.sourceDied(GroupMember.peer))
      leader.run(30)
      #expect(leader.control.releases.count == releases + 1, "\(name): the lease ends once")
      #expect(world.end() == [], "\(name)")
      Self.expectTogether(world)
      for (rank, member) in world.members.enumerated() {
        let applied = member.faulty.applied[kind.transfer] ?? 0
        #expect(failing.contains(rank) == (applied > 0), "\(name): rank \(rank), \(applied)")
      }
    }
  }

  @Test(arguments: [[0: 1], [1: 1], [0: 1, 2: 1]])
  func `a source that some ranks cannot open is asked by none, until all can`(
    refusals: [Int: Int]
  ) throws {
    // The first address that comes is the local store's, and the second the peer's.
    let world = try GroupWorld(3, refusals: refusals.mapValues { $0 + 1 })
    let leader = world.leader
    #expect(Set(leader.control.attachFailures) == [GroupMember.local, GroupMember.peer])
    // The own store is announced again by itself.
    let golden = try #require(try leader.fillPeer(Self.prompt))
    try leader.submit(1, Self.prompt)
    let alone = leader.finish(1)
    let asked = leader.control.posted.contains {
      if case .resolve(_, let source, _, _, _) = $0 { source == GroupMember.peer } else { false }
    }
    #expect(alone?.account.pulledTokens == 0 && !asked)
    #expect(leader.connector.fallbacks == [.peerNotReady: 1])
    `The engine`.expectSame(alone, golden)
    leader.engine.dropCache()
    leader.announce(GroupMember.peer)
    leader.run(2)
    try leader.submit(2, Self.prompt)
    let pulled = leader.finish(2)
    #expect(pulled?.account.keptTokens == 48)
    `The engine`.expectSame(pulled, golden)
    leader.run(3)
    #expect(world.end() == [])
    Self.expectTogether(world)
  }

  @Test(arguments: [
    [1: ClockError(offset: .seconds(10))], [1: ClockError(offset: .seconds(-10))],
    [
      0: ClockError(drift: 0.01), 1: ClockError(offset: .seconds(-10), drift: -0.05),
      2: ClockError(offset: .seconds(10), drift: 0.05),
    ],
  ]) func `no rank's clock changes an outcome`(errors: [Int: ClockError]) throws {
    // A rank that hangs ends the move by the leader's clock alone, whenever the others say they landed.
    func account(_ errors: [Int: ClockError]) throws -> (RequestResult?, RequestResult?) {
      let world = try GroupWorld(3, fault: GroupFault(.hangs, on: [1]), errors: errors)
      let golden = try world.leader.fillPeer(Self.prompt)
      try world.leader.submit(1, Self.prompt)
      let result = world.leader.finish(1)
      world.leader.control.answers.append(.sourceDied(GroupMember.peer))
      world.leader.run(30)
      #expect(world.end() == [])
      return (golden, result)
    }
    let (_, right) = try account([:])
    let (golden, wrong) = try account(errors)
    `The engine`.expectSame(wrong, try #require(golden))
    #expect(wrong?.account.keptTokens == right?.account.keptTokens)
    #expect(wrong?.account.reasons == right?.account.reasons)
    let settle = { (account: RequestResult?) -> Duration? in
      guard let account = account?.account, let settled = account.settledAt else { return nil }
      return settled - account.submittedAt
    }
    let (rightSettle, wrongSettle) = (settle(right), settle(wrong))
    let difference = try #require(rightSettle) - (try #require(wrongSettle))
    // A rank counts silence by its own clock, which may drift by a twentieth of the stall; the leader's
    // own may drift by a percent, and a landing's age is told to the step.
    let most = 0.05 * Limits().stallMin.inSeconds + 0.005
    #expect(abs(difference.inSeconds) < most, "\(difference)")
  }

  @Test func `requests that share a pull, and one that is cancelled, end as they would alone`()
    throws
  {
    let world = try GroupWorld(3, fault: GroupFault(.failsMidway, on: [2]))
    let leader = world.leader
    let golden = try #require(try leader.fillPeer(Self.prompt))
    try leader.submit(1, Self.prompt)
    try leader.submit(2, Self.prompt)
    try leader.submit(3, Array(Self.prompt.reversed()))
    leader.run(4)
    leader.engine.cancel(RequestID(3))
    `The engine`.expectSame(leader.finish(1), golden)
    `The engine`.expectSame(leader.finish(2), golden)
    #expect(world.members[2].faulty.applied[.halfComplete] == 1)
    leader.run(20)
    #expect(world.end() == [])
    Self.expectTogether(world)
  }
}

import RemoteG2Core
import Testing

/// Saves of an engine that numbers its steps, whose messages come over several connections, in any order.
extension `Local desk` {
  static let sealedDigests = [Digest128(high: 1, low: 1), Digest128(high: 2, low: 2)]

  static func seal(_ room: inout Room, _ key: BlockKey) {
    guard case .reserved(let slot, let generation) = room.ledger.pool.begin(key, after: nil)
    else { return }
    room.ledger.pool.seal(slot, generation: generation, digests: sealedDigests)
  }

  @discardableResult
  static func stage(
    _ room: inout Room, _ rank: Int, step: UInt64, slot: UInt32
  ) -> [LocalAction] {
    room.say(.staged([StagedBlock(slot: slot, key: key, step: step)]), room.ranks[rank])
  }

  static func commit(_ room: inout Room, step: UInt64) -> [LocalAction] {
    room.say(.commit([CommittedBlock(key: key, parent: nil, step: step)]), room.leader)
  }

  static func said(_ kind: SaveOutcome.Kind, _ room: Room) -> LocalAction {
    .send(room.leader, .saved([SaveOutcome(key: key, kind: kind)]))
  }

  @Test(arguments: [true, false])
  func `what a settled step has not committed is given back, whichever message comes first`(
    isFirst: Bool
  ) {
    var room = Room()
    if isFirst { Self.stage(&room, 0, step: 5, slot: 2) }
    let settled = room.say(.settled(step: 5), room.leader)
    let late = isFirst ? settled : Self.stage(&room, 0, step: 5, slot: 2)
    #expect(late == [.send(room.ranks[0], .freed([2]))])
    #expect(room.desk.stagedCount == 0)
    // A later step is its own.
    Self.stage(&room, 0, step: 6, slot: 2)
    #expect(room.desk.stagedCount == 1)
  }

  @Test
  func `a committed block of a settled step still waits for a rank whose message is under way`() {
    var room = Room()
    Self.stage(&room, 0, step: 5, slot: 2)
    #expect(Self.commit(&room, step: 5) == [])
    #expect(room.say(.settled(step: 5), room.leader) == [])
    #expect(Self.copy(Self.stage(&room, 1, step: 5, slot: 1)) != nil)
  }

  @Test func `all ranks' bytes are of one step: the later one takes the block over`() {
    var room = Room()
    Self.stage(&room, 0, step: 5, slot: 0)
    #expect(Self.commit(&room, step: 5) == [])
    // A twin of the request has computed the same block in the next step.
    #expect(
      Self.stage(&room, 0, step: 6, slot: 1) == [
        .send(room.ranks[0], .freed([0])), Self.said(.lost, room),
      ])
    #expect(Self.stage(&room, 1, step: 5, slot: 0) == [.send(room.ranks[1], .freed([0]))])
    #expect(Self.copy(Self.stage(&room, 1, step: 6, slot: 1)) == nil)
    #expect(Self.commit(&room, step: 5) == [Self.said(.lost, room)])
    #expect(Self.copy(Self.commit(&room, step: 6)) != nil)
  }

  @Test func `a commit of a step before a rank came again is lost at once`() {
    var room = Room()
    Self.stage(&room, 0, step: 5, slot: 0)
    _ = room.desk.left(room.ranks[1], &room.ledger, at: Self.start)
    #expect(Self.commit(&room, step: 5) == [Self.said(.lost, room)])
    let again = room.desk.joined()!
    room.say(
      .hello(
        LocalHello(
          engine: Self.engine, role: .rank(1), fingerprint: Room.fingerprint, stagingSlots: 4,
          step: 7)), again)
    Self.stage(&room, 0, step: 6, slot: 1)
    #expect(Self.commit(&room, step: 6) == [Self.said(.lost, room)])
    // From its first step on it counts.
    Self.stage(&room, 0, step: 7, slot: 2)
    #expect(Self.commit(&room, step: 7) == [])
    let actions = room.say(.staged([StagedBlock(slot: 0, key: Self.key, step: 7)]), again)
    #expect(Self.copy(actions) != nil)
  }

  @Test(arguments: [true, false])
  func `a block that two requests of one step have is staged once, and saved`(
    isCommittedFirst: Bool
  ) {
    var room = Room()
    Self.stage(&room, 0, step: 5, slot: 0)
    if isCommittedFirst { #expect(Self.commit(&room, step: 5) == []) }
    #expect(Self.stage(&room, 0, step: 5, slot: 1) == [.send(room.ranks[0], .freed([1]))])
    if !isCommittedFirst { #expect(Self.commit(&room, step: 5) == []) }
    #expect(Self.copy(Self.stage(&room, 1, step: 5, slot: 0)) != nil)
    #expect(Self.commit(&room, step: 5) == [Self.said(.present, room)])
  }

  @Test func `an engine that stages without end is remembered no more of than a bound`() {
    var room = Room()
    Self.seal(&room, Self.key)
    for number in 0..<(Limits().storeSavesInFlightMax * 8) {
      let other = BlockKey(high: 70, low: UInt64(number))
      Self.seal(&room, other)
      room.say(.staged([StagedBlock(slot: 1, key: other, step: 5)]), room.ranks[0])
      _ = room.ledger.pool.evictUnpinned()
    }
    // What it has of that step counts no more, whichever block it is.
    let fresh = BlockKey(high: 71, low: 1)
    let commit = room.say(
      .commit([CommittedBlock(key: fresh, parent: nil, step: 5)]), room.leader)
    #expect(commit == [.send(room.leader, .saved([SaveOutcome(key: fresh, kind: .lost)]))])
    // Of the next step it does.
    room.say(.settled(step: 5), room.leader)
    Self.stage(&room, 0, step: 6, slot: 0)
    #expect(Self.commit(&room, step: 6) == [])
  }

  @Test(arguments: [true, false])
  func `who stages what another engine has sealed meanwhile is answered, and nothing waits`(
    isCommittedFirst: Bool
  ) {
    var room = Room(slots: 1)
    Self.stage(&room, 1, step: 5, slot: 2)
    if isCommittedFirst { #expect(Self.commit(&room, step: 5) == []) }
    Self.seal(&room, Self.key)
    let actions = Self.stage(&room, 0, step: 5, slot: 3)
    #expect(actions.contains(.send(room.ranks[0], .freed([3]))))
    // It is evicted before anybody looks again.
    #expect(room.ledger.pool.evictUnpinned() == 1)
    if isCommittedFirst {
      #expect(actions.contains(Self.said(.present, room)))
      #expect(actions.contains(.send(room.ranks[1], .freed([2]))))
    } else {
      #expect(Self.commit(&room, step: 5) == [Self.said(.lost, room)])
      #expect(room.say(.settled(step: 5), room.leader) == [.send(room.ranks[1], .freed([2]))])
    }
    #expect(room.desk.stagedCount == 0)
  }
}

import RemoteG2Core
import Testing

/// The connection of an engine's leader to its own store.
@Suite struct `Own store` {
  static let engine = Incarnation(high: 1, low: 1)
  static let store = Incarnation(high: 2, low: 2)
  static let source = SourceID.local(store)
  static let fingerprint = Fingerprint(
    modelDigest: "m", layout: "l", hashScheme: "h", rankCount: 2, numerics: "n")
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: 0) + .milliseconds(milliseconds)
  }
  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 1) }
  static func lease(_ serial: UInt64) -> LeaseID {
    LeaseID(serial: serial, owner: store, holder: engine)
  }
  static func welcome(slots: Int = 9, bytes: Int = 64, ranks: Int = 2) -> LocalMessage {
    .welcome(
      LocalWelcome(
        store: store, slotCount: slots, blockBytes: bytes, rankCount: ranks, stagingSlots: 0))
  }
  static func resolve(_ serial: UInt64, _ keys: Range<Int>, of source: SourceID = source)
    -> ControlRequest
  {
    .resolve(
      FetchID(serial), source, lease(serial), keys: keys.map(key), timeout: .seconds(1))
  }
  static func found(_ serial: UInt64, _ count: Int, isLast: Bool = true) -> LocalMessage {
    .found(
      lease: serial,
      blocks: (0..<count).map {
        GrantedBlock(slot: SlotIndex($0), generation: 1, digests: [nil, nil])
      }, isLast: isLast)
  }

  static func absent() -> OwnStore {
    OwnStore(engine: engine, as: fingerprint, socket: "s", limits: Limits(), at: at(0))
  }
  static func attached() -> OwnStore {
    var own = absent()
    _ = own.timePassed(at: at(0), lateness: .zero)
    _ = own.connected(at: at(0))
    _ = own.received(welcome(), at: at(0))
    return own
  }
  static let announcement = OwnStore.Order.answer(
    .announced(
      source, [.own(socket: "s", engine: engine), .own(socket: "s", engine: engine)]))

  @Test func `is greeted, and announced to every rank once it has said who it is`() {
    var own = Self.absent()
    let first = own.timePassed(at: Self.at(0), lateness: .zero)
    #expect(first == [.connect] && own.source == nil)
    let hello = own.connected(at: Self.at(0))
    #expect(
      hello == [
        .send(
          .hello(
            LocalHello(
              engine: Self.engine, role: .leader, fingerprint: Self.fingerprint, stagingSlots: 0)))
      ])
    let again = own.connected(at: Self.at(0))
    #expect(again == [.close], "one connection is enough")
    let welcomed = own.received(Self.welcome(), at: Self.at(1))
    #expect(welcomed == [Self.announcement] && own.source == Self.source)
  }

  @Test func `is looked for again after twice as long each time, and at once after it was there`() {
    var own = Self.absent()
    var now = Self.at(0)
    var pauses: [Duration] = []
    for _ in 0..<7 {
      let orders = own.timePassed(at: now, lateness: .zero)
      #expect(orders == [.connect])
      let none = own.disconnected(at: now)
      #expect(none == [])
      let next = own.nextDeadline ?? now
      pauses.append(next - now)
      let early = own.timePassed(at: next + .nanoseconds(-1), lateness: .zero)
      #expect(early == [])
      now = next
    }
    #expect(pauses == [20, 40, 80, 160, 250, 250, 250].map { .milliseconds($0) })
    _ = own.timePassed(at: now, lateness: .zero)
    _ = own.connected(at: now)
    _ = own.received(Self.welcome(), at: now)
    _ = own.disconnected(at: now)
    #expect(own.nextDeadline == now + .milliseconds(20))
  }

  @Test func `is given up after a second without an answer, to the greeting or to a ping`() {
    var greeted = Self.absent()
    _ = greeted.timePassed(at: Self.at(0), lateness: .zero)
    _ = greeted.connected(at: Self.at(0))
    #expect(greeted.nextDeadline == Self.at(1000))
    let early = greeted.timePassed(at: Self.at(999), lateness: .zero)
    let late = greeted.timePassed(at: Self.at(1000), lateness: .zero)
    #expect(early == [] && late == [.close])

    var own = Self.attached()
    #expect(own.nextDeadline == Self.at(250))
    let none = own.timePassed(at: Self.at(249), lateness: .zero)
    let ping = own.timePassed(at: Self.at(250), lateness: .zero)
    #expect(none == [] && ping == [.send(.ping(2))] && own.nextDeadline == Self.at(1250))
    _ = own.received(.pong(2), at: Self.at(300))
    #expect(own.nextDeadline == Self.at(500), "the next ping")
    let second = own.timePassed(at: Self.at(500), lateness: .zero)
    #expect(second == [.send(.ping(3))])
    let quiet = own.timePassed(at: Self.at(1499), lateness: .zero)
    let dead = own.timePassed(at: Self.at(1500), lateness: .zero)
    #expect(quiet == [] && dead == [.close, .answer(.sourceDied(Self.source))])
    #expect(own.source == nil)
  }

  @Test func `is announced again with the next heartbeat when a rank could not attach it, once`() {
    var own = Self.attached()
    own.attachFailed(.local(Self.engine))
    let other = own.timePassed(at: Self.at(250), lateness: .zero)
    #expect(other == [.send(.ping(2))], "that was another store")
    _ = own.received(.pong(2), at: Self.at(251))
    own.attachFailed(Self.source)
    let next = own.timePassed(at: Self.at(500), lateness: .zero)
    #expect(next == [.send(.ping(3)), Self.announcement])
    _ = own.received(.pong(3), at: Self.at(501))
    let last = own.timePassed(at: Self.at(750), lateness: .zero)
    #expect(last == [.send(.ping(4))])
  }

  @Test func `is asked in pages, and answers in pages`() {
    var own = Self.attached()
    let asked = own.post(Self.resolve(1, 0..<5000), at: Self.at(10))
    let pages = asked.compactMap { order -> (Int, Bool)? in
      guard case .send(.lookup(1, let keys, let isLast)) = order else { return nil }
      return (keys.count, isLast)
    }
    #expect(pages.map(\.0) == [2048, 2048, 904] && pages.map(\.1) == [false, false, true])
    let part = own.received(Self.found(1, 2, isLast: false), at: Self.at(11))
    let whole = own.received(Self.found(1, 3), at: Self.at(14))
    #expect(part == [])
    guard case .answer(.resolved(FetchID(1), .granted(let grant)?, let after))? = whole.first else {
      Issue.record("\(whole)")
      return
    }
    #expect(grant.lease == Self.lease(1) && grant.blocks.count == 5)
    #expect(after == .milliseconds(4) && grant.ttl == Limits().leaseTTLMax)
    let twice = own.received(Self.found(1, 3), at: Self.at(15))
    #expect(twice == [])
    _ = own.post(Self.resolve(2, 0..<1), at: Self.at(20))
    let refused = own.received(.notFound(lease: 2, .gone), at: Self.at(21))
    #expect(
      refused == [.answer(.resolved(FetchID(2), .refused(.gone), after: .milliseconds(1)))])
    let again = own.received(.notFound(lease: 2, .gone), at: Self.at(21))
    #expect(again == [])
  }

  @Test func `is told only what is meant for it`() {
    var own = Self.attached()
    let other = SourceID.local(Incarnation(high: 9, low: 9))
    let block = CommittedBlock(key: Self.key(1), parent: nil)
    let unheard = own.post(Self.resolve(1, 0..<1, of: other), at: Self.at(1))
    #expect(unheard == [.answer(.resolved(FetchID(1), nil, after: .zero))])
    let nothing = own.post(Self.resolve(1, 0..<0), at: Self.at(1))
    #expect(nothing == [.answer(.resolved(FetchID(1), nil, after: .zero))])
    for (source, isMeant) in [(Self.source, true), (other, false)] {
      let requests: [ControlRequest] = [
        .release(source, Self.lease(1)), .offer(batch: 3, source, keys: [Self.key(1)]),
        .commit(source, [block]), .withdraw(source, [Self.key(1)]),
      ]
      let messages: [LocalMessage] = [
        .release(lease: 1), .offer(batch: 3, keys: [Self.key(1)]), .commit([block]),
        .withdraw([Self.key(1)]),
      ]
      for (request, message) in zip(requests, messages) {
        let orders = own.post(request, at: Self.at(1))
        #expect(orders == (isMeant ? [.send(message)] : []))
      }
    }
    let confirmed = own.post(
      .confirm(FetchID(1), Self.source, Self.lease(1), timeout: .seconds(1)), at: Self.at(1))
    #expect(confirmed == [.answer(.confirmed(FetchID(1), nil))])
  }

  @Test func `takes with it what was asked, and what it is told of a save goes on`() {
    var own = Self.attached()
    let wanted = own.received(.wanted(batch: 4, [0, 2]), at: Self.at(1))
    #expect(wanted == [.answer(.wanted(batch: 4, Self.source, [0, 2]))])
    let outcome = SaveOutcome(key: Self.key(1), kind: .sealed)
    let saved = own.received(.saved([outcome]), at: Self.at(1))
    #expect(saved == [.answer(.saved(Self.source, [outcome]))])
    _ = own.post(Self.resolve(2, 0..<1), at: Self.at(2))
    _ = own.post(Self.resolve(1, 0..<1), at: Self.at(2))
    _ = own.post(Self.resolve(3, 0..<1), at: Self.at(2))
    _ = own.post(.release(Self.source, Self.lease(3)), at: Self.at(2))
    let lost = own.disconnected(at: Self.at(3))
    #expect(
      lost == [
        .answer(.resolved(FetchID(1), nil, after: .zero)),
        .answer(.resolved(FetchID(2), nil, after: .zero)), .answer(.sourceDied(Self.source)),
      ])
    let late = own.received(Self.found(1, 1), at: Self.at(4))
    #expect(late == [])
  }

  @Test(arguments: [
    welcome(slots: 0), welcome(slots: Limits().slotsMax + 1), welcome(bytes: 0), welcome(ranks: 1),
    .refused("another model"), .pong(1),
  ])
  func `that cannot be used is told to whoever started it`(message: LocalMessage) {
    var own = Self.absent()
    _ = own.timePassed(at: Self.at(0), lateness: .zero)
    _ = own.connected(at: Self.at(0))
    let orders = own.received(message, at: Self.at(1))
    guard case .tellUnusable? = orders.first else {
      Issue.record("\(orders)")
      return
    }
    #expect(orders.dropFirst() == [.close] && own.source == nil)
  }

  @Test func `may have as many slots as a peer may announce`() {
    var own = Self.absent()
    _ = own.timePassed(at: Self.at(0), lateness: .zero)
    _ = own.connected(at: Self.at(0))
    let orders = own.received(
      Self.welcome(slots: Limits().slotsMax, bytes: 1), at: Self.at(1))
    #expect(orders == [Self.announcement])
  }
}

import KVConnector
import RemoteG2Core
import Simulation
import Testing

/// Before there is a grant, and after the request has gone.
extension `Lease and plan decisions` {
  @Test func `a source that one rank cannot attach is announced again, and not asked meanwhile`()
    throws
  {
    let desk = try Desk(ranks: 2)
    var number = desk.announce(Desk.source)
    func report(_ first: Bool, _ second: Bool) {
      let reports = [first, second].enumerated().map { rank, isAttached in
        var report = RankReport(rank: rank, sequence: 0)
        report.attached = [number: isAttached]
        return report
      }
      _ = desk.connector.absorb(reports, at: desk.now)
    }
    func asked() -> Bool {
      desk.control.posted.contains { if case .resolve = $0 { true } else { false } }
    }
    // Rank 0 can read it, and of rank 1 nothing is known yet.
    #expect(!desk.connector.isReady("P"))
    #expect(try desk.match(0) == .undecided && !asked(), "it is asked once every rank can read it")
    report(true, false)
    #expect(desk.control.attachFailures == [Desk.source])
    #expect(!desk.connector.isReady("P"))
    #expect(try desk.match(0) == .undecided && !asked(), "it is waited for, and not asked")
    report(false, true)
    #expect(desk.control.attachFailures.count == 1, "it is told once an announcement")
    let old = number
    number = desk.announce(Desk.source)
    report(false, false)
    report(false, false)
    #expect(desk.control.attachFailures.count == 2)
    // What is told of an earlier order says nothing of the next.
    let next = desk.announce(Desk.source)
    number = old
    report(true, true)
    #expect(!desk.connector.isReady("P"))
    number = next
    report(true, true)
    #expect(desk.connector.isReady("P"))
    #expect(try desk.match(0) == .undecided && asked())
    desk.connector.shutDown(at: desk.now)
  }

  @Test func `a request that leaves before its grant is bound gives the lease back`() throws {
    let desk = try Desk()
    #expect(try desk.match(0) == .undecided)
    desk.grant(8)
    #expect(desk.control.releases.isEmpty && desk.connector.open.fetches == 1)
    desk.connector.finish(RequestID(1))
    _ = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    #expect(desk.control.releases.count == 1 && desk.isClean)
  }

  @Test func `no hint but a sound one gets through`() throws {
    var generator = Chance(seed: 7)
    var (taken, dropped) = (0, 0)
    let numbers = [0, -1, 1, 2, 4096, 4097, .max, .min]
    for _ in 0..<4000 {
      let length = [0, 1, 8, 4096, 4097, 100_000].randomElement(using: &generator) ?? 0
      let version = [1, 1, 1, 0, 2, -1, .max].randomElement(using: &generator) ?? 0
      let blocks = numbers.randomElement(using: &generator)
      do throws(HintError) {
        let hint = try Hint(
          version: version, store: String(repeating: "\u{1F600}", count: length),
          blocksMax: blocks, limits: Limits())
        taken += 1
        #expect(version == Hint.version && !hint.store.text.isEmpty)
        #expect(hint.store.text.utf8.count <= Limits().hintBytesMax)
        #expect((1...Limits().blocksPerFetchMax).contains(hint.blocksMax ?? 1))
      } catch { dropped += 1 }
    }
    #expect(taken > 50 && dropped > 500)
  }

  @Test func `a confirm counts from the head of the grant, of which a part was skipped`() throws {
    let desk = try Desk()
    desk.connector.setProof(.off)
    _ = try desk.match(2)
    desk.grant(10)
    #expect(try desk.match(5) == .available(blocks: 7))
    desk.connector.bind(RequestID(1), to: (20..<27).map { BlockIndex($0) }, at: desk.now)
    _ = desk.connector.plan(at: desk.now)
    var report = RankReport(rank: 0, sequence: 0)
    report.progress[FetchID(1)] = RankProgress(
      landed: 7, posting: .ended)
    _ = desk.connector.absorb([report], at: desk.now)
    // The source still vouches for the grant's first five: three that were skipped, and two.
    desk.control.answers.append(.confirmed(FetchID(1), .intact(5)))
    let outcome = desk.connector.absorb([RankReport(rank: 0, sequence: 0)], at: desk.now)
    #expect(outcome.settled.first?.valid.map(\.block) == [BlockIndex(20), BlockIndex(21)])
    #expect(desk.isClean)
  }

  @Test func `a fetch that was answered is not granted again`() throws {
    let desk = try Desk()
    _ = try desk.match(0)
    desk.grant(4)
    desk.grant(8, serial: 9)
    #expect(try desk.match(0) == .available(blocks: 4))
    desk.connector.abort(RequestID(1), at: desk.now)
    #expect(desk.control.releases.count == 1 && desk.isClean)
  }

  @Test func `a source counts as silent after four times what a transfer takes, 150 ms at least`()
    throws
  {
    let desk = try Desk()
    func stall(_ id: UInt64) throws -> Duration? {
      _ = try desk.match(0, id: id)
      desk.grant(4, fetch: id, serial: id)
      #expect(try desk.match(0, id: id) == .available(blocks: 4))
      let first = Int(id) * 4
      desk.connector.bind(
        RequestID(id), to: (first..<first + 4).map { BlockIndex($0) }, at: desk.now)
      let orders = desk.connector.plan(at: desk.now)
      desk.connector.abort(RequestID(id), at: desk.now)
      for case .load(_, _, _, let stall) in orders { return stall }
      return nil
    }
    #expect(try stall(1) == Limits().stallMin)
    // A transfer of 16 blocks of 128 bytes takes a second at this rate.
    var report = RankReport(rank: 0, sequence: 0)
    report.bytesMoved[Desk.source] = .init(bytes: 2048, duration: .seconds(1))
    _ = desk.connector.absorb([report], at: desk.now)
    #expect(try stall(2) == .seconds(4))
    // A rig that holds a transfer back is not taken for silence either.
    desk.connector.expectTransfers(of: 2, toTake: .seconds(2))
    #expect(try stall(3) == .seconds(8))
  }

  @Test(arguments: [(200.0, 50), (12.0, 200), (1.0, 500)])
  func `a question may take a twentieth of the recompute, 50 to 500 ms`(
    rate: Double, milliseconds: Int
  ) throws {
    let desk = try Desk()
    for _ in 0..<200 {
      desk.connector.observePrefill(tokens: 16, in: .nanoseconds(Int64(16 / rate * 1e9)))
    }
    _ = try desk.match(0)
    let timeouts = desk.control.posted.compactMap { request -> Duration? in
      if case .resolve(_, _, _, _, let timeout) = request { timeout } else { nil }
    }
    let expected = Duration.milliseconds(milliseconds)
    #expect(timeouts.count == 1)
    #expect(
      timeouts.allSatisfy { $0 > expected * 0.99 && $0 < expected * 1.01 }, "\(timeouts)")
  }

  @Test func `when a rank's last block landed is told in the leader's time`() throws {
    var desk = try Desk(ranks: 2)
    desk.now = LocalInstant(nanoseconds: 5_000_000_000)
    func reports(_ change: (inout RankReport) -> Void) -> [RankReport] {
      (0..<2).map { rank in
        var report = RankReport(rank: rank, sequence: 0)
        // The other rank's clock has nothing to do with the leader's.
        report.at = rank == 0 ? nil : LocalInstant(nanoseconds: 77_000_000_000)
        change(&report)
        return report
      }
    }
    let number = desk.announce(Desk.source)
    _ = desk.connector.absorb(reports { $0.attached = [number: true] }, at: desk.now)
    _ = try desk.match(0, blocksMax: 2)
    let granted = (0..<2).map {
      GrantedBlock(slot: SlotIndex($0), generation: 1, digests: [nil, nil])
    }
    let lease = LeaseID(
      serial: 1, owner: Desk.source.incarnation, holder: desk.control.incarnation)
    desk.control.answers.append(
      .resolved(
        FetchID(1), .granted(Grant(lease: lease, ttl: .seconds(30), blocks: granted)),
        after: .milliseconds(1)))
    _ = desk.connector.absorb(reports { _ in }, at: desk.now)
    #expect(try desk.match(0, blocksMax: 2) == .available(blocks: 2))
    desk.connector.bind(RequestID(1), to: [BlockIndex(0), BlockIndex(1)], at: desk.now)
    _ = desk.connector.plan(at: desk.now)
    let landed = reports {
      $0.progress[FetchID(1)] = RankProgress(
        landed: 2, posting: .ended,
        lastLanding: $0.at.map { $0 + .milliseconds(-3) })
    }
    _ = desk.connector.absorb(landed, at: desk.now)
    desk.control.answers.append(.confirmed(FetchID(1), .intact(2)))
    let settled = desk.connector.absorb(reports { _ in }, at: desk.now).settled
    #expect(settled.first?.valid.count == 2)
    #expect(settled.first?.lastLandingAt == desk.now + .milliseconds(-3))
  }
}

import RemoteG2Core
import Testing

/// The three ends of a connection between two nodes, driven as their shells drive them.
@Suite struct `A stream between two nodes` {
  static let terms = `Stream messages`.terms
  static let keys = (0..<4).map { BlockKey(high: UInt64($0), low: 19) }
  static let hello = StreamHello(node: Incarnation(high: 8, low: 8), name: "b", terms: terms)
  static let welcome = StreamMessage.welcome(
    StreamWelcome(node: Incarnation(high: 1, low: 1), name: "a"))
  static func at(_ milliseconds: Int) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(milliseconds) * 1_000_000)
  }
  static let digests = (0..<2).map { Digest128(high: 3, low: UInt64($0)) }

  static func pull(patience: Duration = .milliseconds(100)) -> PullMachine {
    PullMachine(
      hello: hello, terms: terms, keys: keys, patience: patience, limits: Limits(), at: at(0))
  }

  /// Gives a machine a frame, in pieces as large as it takes them.
  static func give(_ message: StreamMessage, to machine: inout PullMachine) -> PullMachine.Step {
    var bytes = StreamCodec.encode(message)[...]
    var step = PullMachine.Step.more
    while !bytes.isEmpty {
      guard case .frame(let count) = machine.need else { return step }
      let piece = Array(bytes.prefix(count))
      bytes = bytes.dropFirst(count)
      step = piece.withUnsafeBytes { machine.took($0) }
    }
    return step
  }

  /// What waits in a queue, as messages.
  static func messages(_ queue: inout SendQueue) throws -> [StreamMessage] {
    var intake = FrameIntake()
    var found: [StreamMessage] = []
    while !queue.isEmpty {
      let count = min(intake.wanted, queue.count)
      let piece = queue.withNext { Array($0.prefix(count)) }
      queue.took(count)
      if let message = try piece.withUnsafeBytes({ try intake.take($0) }) { found.append(message) }
    }
    return found
  }

  // MARK: Who asks

  @Test func `asks before it was welcomed, and tells each rank's bytes apart`() throws {
    var machine = Self.pull()
    #expect(
      try Self.messages(&machine.outgoing) == [
        .hello(Self.hello), .ask(keys: Self.keys, isLast: true),
      ])
    #expect(Self.give(Self.welcome, to: &machine) == .more)
    let block = StreamMessage.block(position: 0, digests: Self.digests)
    #expect(Self.give(block, to: &machine) == .arriving(position: 0))
    #expect(machine.place(.write(SlotIndex(7), generation: 3)) == .more)
    let bytes = Self.terms.blockBytes
    #expect(machine.need == .body(SlotIndex(7), rank: 0, offset: 0, count: bytes))
    #expect(machine.took(100) == .more)
    #expect(machine.need == .body(SlotIndex(7), rank: 0, offset: 100, count: bytes - 100))
    #expect(machine.took(bytes - 100) == .rankWhole)
    #expect(machine.need == .body(SlotIndex(7), rank: 1, offset: 0, count: bytes))
    #expect(machine.took(bytes) == .blockWhole(SlotIndex(7), 3, digests: Self.digests))
    #expect(Self.give(.end(.served), to: &machine) == .ended(.served))
  }

  @Test func `drops the bytes of a block that is here, on all ranks`() {
    var machine = Self.pull()
    _ = Self.give(Self.welcome, to: &machine)
    _ = Self.give(.block(position: 0, digests: Self.digests), to: &machine)
    #expect(machine.place(.skip) == .more)
    #expect(machine.need == .dropped(Self.terms.bytesOfAllRanks))
    #expect(machine.took(1) == .more)
    #expect(machine.took(Self.terms.bytesOfAllRanks - 1) == .skipped)
    #expect(Self.give(.end(.lacking), to: &machine) == .ended(.lacking))
  }

  @Test(arguments: [
    StreamMessage.block(position: 0, digests: digests), .end(.served), .watch, .beat,
  ])
  func `takes nothing from who has not said welcome`(message: StreamMessage) {
    var machine = Self.pull()
    #expect(Self.give(message, to: &machine) == .ended(.invalid))
  }

  @Test func `takes no block without a digest of each rank`() {
    var machine = Self.pull()
    _ = Self.give(Self.welcome, to: &machine)
    let block = StreamMessage.block(position: 0, digests: [Self.digests[0]])
    #expect(Self.give(block, to: &machine) == .ended(.invalid))
  }

  @Test func `knows how fast the first block comes on all ranks together, and no other`() {
    var machine = Self.pull()
    _ = Self.give(Self.welcome, to: &machine)
    var (now, told) = (0, [(at: Int, block: Int, rate: Double)]())
    for block in 0..<3 {
      #expect(
        Self.give(.block(position: block, digests: Self.digests), to: &machine)
          == .arriving(position: block))
      _ = machine.place(.write(SlotIndex(block), generation: 2))
      while true {
        guard case .body(_, _, _, let left) = machine.need else { break }
        // 100 bytes a millisecond.
        let step = machine.took(min(left, 100))
        now += 1
        if let rate = machine.heard(at: Self.at(now)) { told.append((now, block, rate)) }
        if case .blockWhole = step { break }
      }
    }
    #expect(machine.received == 3 * Self.terms.bytesOfAllRanks)
    #expect(told.map(\.block) == [0] && told.first.map { abs($0.rate - 1e5) < 2e3 } == true)
  }

  @Test func `gives up a member that is silent, and forgives its own lateness once`() {
    var machine = Self.pull()
    #expect(machine.stallsAt == Self.at(100))
    #expect(machine.judge(lateness: .zero, at: Self.at(99)) == .more)
    machine.heard(at: Self.at(60))
    #expect(machine.firstByteAfter == .milliseconds(60))
    machine.heard(at: Self.at(99))
    #expect(machine.firstByteAfter == .milliseconds(60))
    #expect(machine.judge(lateness: .zero, at: Self.at(198)) == .more)
    // We were stopped ourselves for most of that.
    #expect(machine.judge(lateness: .milliseconds(300), at: Self.at(520)) == .more)
    #expect(machine.judge(lateness: .zero, at: Self.at(900)) == .ended(.stalled))
  }

  // MARK: Who answers

  /// A connection to a node that holds the first two keys.
  struct Served {
    var bench = `A node`.Bench()
    var machine = ServeMachine(limits: Limits(), at: at(0))
    /// Of frames of blocks, what is not a whole one yet.
    private var (framed, intake): ([UInt8], FrameIntake) = ([], FrameIntake())

    private mutating func takeFramed() throws -> StreamMessage? {
      while !framed.isEmpty {
        let piece = Array(framed.prefix(intake.wanted))
        framed.removeFirst(piece.count)
        if let message = try piece.withUnsafeBytes({ try intake.take($0) }) { return message }
      }
      return nil
    }

    init() {
      bench.announce("b", keys)
      bench.want(Array(keys[..<2]), at: at(0))
      for place in 0..<2 { bench.land(bench.pulls[0].stream, place, at: at(1)) }
      bench.take(bench.core.ended(bench.pulls[0].stream, .served, at: at(2)))
      bench.take(bench.core.received(.release(lease: 1), from: bench.leader, at: at(3)))
    }

    mutating func say(_ message: StreamMessage) -> Bool {
      var bytes = StreamCodec.encode(message)[...]
      while !bytes.isEmpty {
        guard let count = machine.wanted else { return true }
        let piece = Array(bytes.prefix(count))
        bytes = bytes.dropFirst(count)
        guard piece.withUnsafeBytes({ machine.took($0, &bench.core) }) else { return false }
      }
      return true
    }

    /// Sends what there is, `atMost` bytes of blocks at once: the messages, and how many bytes of blocks.
    mutating func drain(atMost: Int = 1000, until now: LocalInstant = at(5)) throws
      -> (messages: [StreamMessage], bytes: Int)
    {
      var messages: [StreamMessage] = []
      var bytes = 0
      while true {
        switch machine.next() {
        case .idle, .over: return (messages, bytes)
        case .prepare:
          guard machine.prepare(&bench.core, at: now) else { return (messages, bytes) }
        case .send:
          var sent = 0
          for part in machine.parts(atMost: atMost) {
            switch part {
            case .queued:
              var queue = machine.outgoing
              sent += queue.count
              messages += try `A stream between two nodes`.messages(&queue)
            case .frames(let range):
              sent += range.count
              framed += machine.frames[range]
              while let message = try takeFramed() { messages.append(message) }
            case .body(_, _, _, let count):
              sent += count
              bytes += count
            }
          }
          machine.sent(sent, at: now)
        }
      }
    }
  }

  @Test func `answers what is here with its digests, then says that it lacks the rest`() throws {
    var served = Served()
    #expect(served.say(.hello(Self.hello)) == true)
    #expect(
      try served.drain().messages == [
        .welcome(StreamWelcome(node: Incarnation(high: 1, low: 1), name: "a"))
      ])
    #expect(served.say(.ask(keys: Self.keys, isLast: true)) == true)
    #expect(served.machine.isAnswering && served.machine.wanted == nil)
    let (messages, bytes) = try served.drain()
    #expect(
      messages == [
        .block(position: 0, digests: `A node`.digests(0)),
        .block(position: 1, digests: `A node`.digests(1)), .end(.lacking),
      ])
    #expect(bytes == 2 * Self.terms.bytesOfAllRanks)
    #expect(served.bench.core.report.servingPins == 0 && served.bench.core.report.serving == 0)
    #expect(served.bench.core.bytesServed == UInt64(bytes))
  }

  @Test func `may be sent a frame and the bytes after it cut anywhere`() throws {
    for cut in stride(from: 1, through: 250, by: 3) {
      var served = Served()
      _ = served.say(.hello(Self.hello))
      _ = try served.drain()
      _ = served.say(.ask(keys: Self.keys, isLast: true))
      #expect(served.machine.prepare(&served.bench.core, at: Self.at(5)) == true)
      #expect(served.machine.next() == .send)
      // Byte by byte what is sent is the same, however it is cut.
      func run(_ machine: ServeMachine) -> [String] {
        machine.parts(atMost: 1 << 20).flatMap { part -> [String] in
          switch part {
          case .queued: ["queued"]
          case .frames(let range): range.map { "frame \($0)" }
          case .body(let slot, let rank, let offset, let count):
            (offset..<offset + count).map { "\(slot) rank \(rank) \($0)" }
          }
        }
      }
      let whole = run(served.machine)
      let frame = served.machine.frames.count / 2
      #expect(
        whole.count == 2 * (frame + Self.terms.bytesOfAllRanks) && Set(whole).count == whole.count)
      #expect(whole[..<frame].allSatisfy { $0.hasPrefix("frame") })
      served.machine.sent(cut, at: Self.at(5))
      #expect(run(served.machine) == Array(whole[cut...]))
      #expect(served.machine.parts(atMost: 1).count == 1)
    }
  }

  @Test func `lets its pins go when it is closed in the middle of a block`() {
    var served = Served()
    _ = served.say(.hello(Self.hello))
    _ = try? served.drain()
    _ = served.say(.ask(keys: Self.keys, isLast: true))
    #expect(served.machine.prepare(&served.bench.core, at: Self.at(5)) == true)
    #expect(served.bench.core.report.servingPins == 2 && served.bench.core.report.serving == 1)
    served.machine.close(&served.bench.core)
    #expect(served.bench.core.report.servingPins == 0 && served.bench.core.report.serving == 0)
    #expect(served.bench.stats.pinned == 0)
  }

  @Test func `cuts off a reader that takes too little of what there is`() {
    var served = Served()
    _ = served.say(.hello(Self.hello))
    _ = try? served.drain()
    #expect(served.machine.nextDeadline == nil)
    #expect(served.machine.blocked(at: Self.at(10)) == false)
    #expect(served.machine.isBlocked)
    #expect(served.machine.nextDeadline == Self.at(2010))
    #expect(served.machine.blocked(at: Self.at(2009)) == false)
    #expect(served.machine.blocked(at: Self.at(2010)) == true)
  }

  @Test func `does not count the time of a reader that has taken all there was`() throws {
    var served = Served()
    _ = served.say(.hello(Self.hello))
    #expect(served.machine.blocked(at: Self.at(10)) == false)
    _ = try served.drain(until: Self.at(20))
    #expect(!served.machine.isBlocked && served.machine.nextDeadline == nil)
    // And a question later it has its whole time again.
    _ = served.say(.ask(keys: Self.keys, isLast: true))
    #expect(served.machine.prepare(&served.bench.core, at: Self.at(3000)) == true)
    #expect(served.machine.blocked(at: Self.at(3000)) == false)
    #expect(served.machine.nextDeadline == Self.at(5000))
  }

  @Test func `does not keep who never says who it is`() {
    let machine = ServeMachine(limits: Limits(), at: Self.at(0))
    #expect(!machine.isOverdue(at: Self.at(9_999)))
    #expect(machine.nextDeadline == Self.at(10_000))
    #expect(machine.isOverdue(at: Self.at(10_000)))
  }

  @Test func `does not keep who says that it watches, and does not`() throws {
    var served = Served()
    let hello = StreamHello(node: Incarnation(high: 8, low: 8), name: "b", terms: nil)
    #expect(served.say(.hello(hello)) == true)
    _ = try served.drain()
    #expect(served.machine.nextDeadline == Self.at(10_000))
    #expect(served.machine.isOverdue(at: Self.at(10_000)))
    #expect(served.say(.watch) == true)
    #expect(!served.machine.isOverdue(at: Self.at(10_000)))
  }

  @Test func `cuts off who says what no member says`() {
    for message in [StreamMessage.watch, .ask(keys: Self.keys, isLast: true), Self.welcome, .beat] {
      var served = Served()
      #expect(served.say(message) == false, "\(message)")
    }
    var served = Served()
    _ = served.say(.hello(Self.hello))
    _ = try? served.drain()
    #expect(served.say(.ask(keys: [], isLast: false)) == false)
  }

  // MARK: Who watches

  static func watch() -> (WatchMachine, NodeCore) {
    let core = NodeCore(
      node: Incarnation(high: 1, low: 1), name: "a", members: ["b"], memoryBytes: 1 << 20,
      limits: Limits())
    return (
      WatchMachine("b", at: "there", as: hello, limits: Limits(), from: at(0)), core
    )
  }

  static func give(
    _ message: StreamMessage, _ machine: inout WatchMachine, _ core: inout NodeCore,
    at now: LocalInstant
  ) -> [WatchMachine.Order] {
    var bytes = StreamCodec.encode(message)[...]
    var orders: [WatchMachine.Order] = []
    while !bytes.isEmpty {
      let piece = Array(bytes.prefix(machine.wanted))
      bytes = bytes.dropFirst(piece.count)
      orders += piece.withUnsafeBytes { machine.took($0, &core, at: now) }
    }
    return orders
  }

  @Test func `is opened, heard, and opened anew when it has said nothing for too long`() {
    var (machine, core) = Self.watch()
    #expect(machine.timePassed(&core, at: Self.at(0)) == [.connect])
    let welcome = StreamMessage.welcome(
      StreamWelcome(node: Incarnation(high: 2, low: 2), name: "b"))
    #expect(
      Self.give(welcome, &machine, &core, at: Self.at(10)) == [.tell("b is connected")])
    #expect(core.standing(of: "b") == .watched)
    #expect(Self.give(.beat, &machine, &core, at: Self.at(500)) == [])
    #expect(machine.nextDeadline == Self.at(2000))
    #expect(machine.timePassed(&core, at: Self.at(1999)) == [])
    #expect(
      machine.timePassed(&core, at: Self.at(2000)) == [
        .tell("b is away: its connection ended"), .close,
      ])
    #expect(core.standing(of: "b") == .away)
    #expect(machine.nextDeadline == Self.at(2020))
    #expect(machine.timePassed(&core, at: Self.at(2020)) == [.connect])
    // Nobody listens: it waits twice as long, and says nothing new.
    #expect(machine.ended(nil, &core, at: Self.at(2021)) == [.close])
    #expect(machine.nextDeadline == Self.at(2061))
  }

  @Test func `of a node with another name is refused with what to correct`() {
    var (machine, core) = Self.watch()
    _ = machine.timePassed(&core, at: Self.at(0))
    let other = StreamMessage.welcome(StreamWelcome(node: Incarnation(high: 2, low: 2), name: "x"))
    let orders = Self.give(other, &machine, &core, at: Self.at(1))
    #expect(
      orders == [
        .tell("b is away: the node at there is named x: correct --member"), .close,
      ])
    #expect(core.standing(of: "b") == .refused("the node at there is named x: correct --member"))
  }

  @Test func `waits for a member's first byte three times as long as it usually takes`() {
    for (usual, patience) in [(1, 100), (60, 180), (900, 400)] {
      var bench = `A node`.Bench()
      let node = Incarnation(high: 77, low: 98)
      #expect(
        bench.core.watched(
          "b", as: StreamWelcome(node: node, name: "b"), after: .milliseconds(usual)) == nil)
      _ = bench.core.heard(.pools([Self.terms]), from: "b")
      _ = bench.core.heard(.snapshot(Self.keys, isLast: true), from: "b")
      let actions = bench.core.received(
        .want(lease: 1, keys: Self.keys, isLast: true, pace: .seconds(1)), from: bench.leader,
        at: Self.at(0))
      let found = actions.compactMap { action -> Duration? in
        if case .pull(_, _, _, _, _, let patience) = action { patience } else { nil }
      }
      #expect(found == [.milliseconds(patience)])
    }
  }
}

import RemoteG2Core
import Testing

@Suite struct `A keeper` {
  private static let limits = Limits()

  private static func at(_ milliseconds: Int64) -> LocalInstant {
    LocalInstant(nanoseconds: milliseconds * 1_000_000)
  }

  private static func serving() -> KeeperMachine {
    var machine = KeeperMachine(limits: limits)
    #expect(machine.began(at: at(0)) == [.start(life: 1)])
    machine.serves(at: at(100))
    machine.settled()
    return machine
  }

  private static func isTold(_ orders: [KeeperMachine.Order], _ words: String) -> Bool {
    orders.contains { if case .tell(let text) = $0 { text.contains(words) } else { false } }
  }

  @Test func `hands on what it keeps once the process before was seen to have ended`() {
    var machine = Self.serving()
    #expect(machine.nextDeadline == nil)
    machine.connectionEnded(at: Self.at(5_000))
    #expect(machine.timePassed(at: Self.at(6_999)).isEmpty)
    let orders = machine.reaped(137, at: Self.at(6_999))
    #expect(orders.contains(.start(life: 2)) && !orders.contains(.forget))
    #expect(Self.isTold(orders, "signal 9") && Self.isTold(orders, "what it held"))
  }

  @Test func `hands nothing on while the process before may still write`() {
    var machine = Self.serving()
    machine.connectionEnded(at: Self.at(5_000))
    #expect(machine.nextDeadline == Self.at(7_000))
    let orders = machine.timePassed(at: Self.at(7_000))
    #expect(orders.first == .kill)
    let (forgets, starts) = (orders.firstIndex(of: .forget), orders.firstIndex(of: .start(life: 2)))
    #expect(forgets != nil && starts != nil && forgets! < starts!)
    #expect(Self.isTold(orders, "may still write"))
    // It has ended at last, and is not the one that serves now.
    machine.serves(at: Self.at(7_100))
    #expect(machine.timePassed(at: Self.at(60_000)).isEmpty)
  }

  @Test func `two short lives in a row leave nothing to the next, and then it pauses`() {
    var machine = Self.serving()
    #expect(machine.reaped(139, at: Self.at(1_099)).contains(.start(life: 2)))
    machine.serves(at: Self.at(1_200))
    machine.settled()
    var orders = machine.reaped(139, at: Self.at(2_199))
    #expect(orders.contains(.forget) && !orders.contains(.start(life: 3)))
    #expect(Self.isTold(orders, "nothing"))
    var now: Int64 = 2_199
    var pauses: [Int64] = []
    for life in 3...12 {
      guard let next = machine.nextDeadline else {
        Issue.record("it does not start another")
        return
      }
      #expect(machine.timePassed(at: LocalInstant(nanoseconds: next.nanoseconds - 1)).isEmpty)
      #expect(machine.timePassed(at: next) == [.start(life: life)])
      pauses.append((next - Self.at(now)).nanoseconds / 1_000_000)
      now += pauses[pauses.count - 1]
      orders = machine.reaped(139, at: Self.at(now))
      #expect(orders.contains(.forget))
    }
    #expect(pauses == [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000])
  }

  @Test func `a life that was long enough makes the next one trusted again`() {
    var machine = Self.serving()
    _ = machine.reaped(139, at: Self.at(1_000))
    machine.serves(at: Self.at(1_100))
    machine.settled()
    #expect(!machine.reaped(139, at: Self.at(2_100)).contains(.forget))
    machine.serves(at: Self.at(2_200))
    machine.settled()
    let orders = machine.reaped(139, at: Self.at(2_300))
    #expect(orders.contains(.start(life: 4)) && !orders.contains(.forget))
  }

  @Test func `a life that ends before it has looked at what it was handed is a short one`() {
    var machine = Self.serving()
    _ = machine.reaped(139, at: Self.at(9_000))
    machine.serves(at: Self.at(9_100))
    #expect(!machine.reaped(139, at: Self.at(20_000)).contains(.forget))
    machine.serves(at: Self.at(20_100))
    #expect(machine.reaped(139, at: Self.at(40_000)).contains(.forget))
  }

  @Test func `what the system has no room to start is tried again, and nothing is given up for it`()
  {
    var machine = Self.serving()
    #expect(machine.reaped(137, at: Self.at(5_000)).contains(.start(life: 2)))
    var pauses: [Int64] = []
    var now = Self.at(5_000)
    for _ in 0..<8 {
      #expect(machine.couldNotStart(at: now).isEmpty)
      guard let next = machine.nextDeadline else {
        Issue.record("it is not tried again")
        return
      }
      pauses.append((next - now).nanoseconds / 1_000_000)
      now = next
      #expect(machine.timePassed(at: now) == [.start(life: 2)])
    }
    #expect(pauses == [50, 100, 200, 400, 800, 1600, 3200, 5000])
    machine.serves(at: now)
    machine.settled()
    #expect(!machine.reaped(137, at: now + .seconds(2)).contains(.forget))
    // At its very start it is what is wrong with how it is started.
    var first = KeeperMachine(limits: Self.limits)
    _ = first.began(at: Self.at(0))
    #expect(first.couldNotStart(at: Self.at(1)) == [.end(status: 1)])
  }

  @Test func `one that never served at all has said what is wrong`() {
    var machine = KeeperMachine(limits: Self.limits)
    _ = machine.began(at: Self.at(0))
    #expect(machine.reaped(64, at: Self.at(50)) == [.end(status: 64)])
    #expect(machine.nextDeadline == nil)
  }

  @Test func `one that does not serve in time is killed, and another begins with what is kept`() {
    var machine = Self.serving()
    #expect(machine.reaped(137, at: Self.at(5_000)).contains(.start(life: 2)))
    let by = Self.at(5_000) + Self.limits.serveStartMax
    #expect(machine.nextDeadline == by)
    #expect(machine.timePassed(at: LocalInstant(nanoseconds: by.nanoseconds - 1)).isEmpty)
    let orders = machine.timePassed(at: by)
    #expect(orders.first == .kill && Self.isTold(orders, "did not within 30"))
    // What it says now is too late.
    machine.serves(at: by)
    var unseen = machine
    let followed = machine.reaped(137, at: by + .milliseconds(5))
    #expect(followed.contains(.start(life: 3)))
    #expect(Self.isTold(followed, "signal 9"))
    // It does not even end.
    let given = unseen.timePassed(at: by + Self.limits.reapMax)
    #expect(given.contains(.forget) && given.contains(.start(life: 3)))

    // The first of all: nobody can be started better.
    var first = KeeperMachine(limits: Self.limits)
    _ = first.began(at: Self.at(0))
    let killedAt = Self.at(0) + Self.limits.serveStartMax
    #expect(first.timePassed(at: killedAt).first == .kill)
    var unkillable = first
    #expect(
      unkillable.timePassed(at: killedAt + Self.limits.reapMax) == [.kill, .end(status: 1)])
    #expect(first.reaped(137, at: Self.at(31_000)) == [.end(status: 137)])
  }

  @Test func `one that ends by itself without fault is the end`() {
    var machine = Self.serving()
    #expect(machine.reaped(0, at: Self.at(500)) == [.end(status: 0)])
  }

  @Test func `it ends what serves as it is told to end itself, within a bound`() {
    var machine = Self.serving()
    #expect(machine.toldToEnd(at: Self.at(1_000)) == [.tellToEnd])
    #expect(machine.toldToEnd(at: Self.at(1_100)).isEmpty)
    var other = machine
    #expect(other.reaped(0, at: Self.at(1_200)) == [.end(status: 0)])
    // Its connection goes before it does.
    var closing = machine
    closing.connectionEnded(at: Self.at(1_150))
    #expect(closing.timePassed(at: Self.at(4_000)).isEmpty)
    #expect(closing.reaped(0, at: Self.at(4_000)) == [.end(status: 0)])
    var killed = machine
    #expect(killed.reaped(137, at: Self.at(1_200)) == [.end(status: 137)])
    // It does not end.
    let by = Self.limits.drainMax + Self.limits.reapMax
    #expect(machine.nextDeadline == Self.at(1_000) + by)
    #expect(machine.timePassed(at: Self.at(1_000) + by) == [.kill])
    #expect(
      machine.timePassed(at: Self.at(1_000) + by + Self.limits.reapMax) == [.end(status: 1)])
  }

  @Test func `told to end while none serves, it ends`() {
    var machine = Self.serving()
    _ = machine.reaped(139, at: Self.at(200))
    _ = machine.reaped(139, at: Self.at(300))
    #expect(machine.nextDeadline == Self.at(350))
    #expect(machine.toldToEnd(at: Self.at(310)) == [.end(status: 0)])
    #expect(machine.timePassed(at: Self.at(1_000)).isEmpty)
  }

  @Test func `its messages come back as they were sent, and others are none`() throws {
    let name = Incarnation(high: 3, low: 4)
    for message: KeeperMessage in [
      .keep(name, part: 64), .drop(name), .begin(life: 7, port: 65_535), .serves(port: 1), .settled,
    ] {
      let bytes = message.bytes
      #expect(bytes.count <= KeeperMessage.bytesMax)
      #expect(try bytes.withUnsafeBytes { try KeeperMessage($0) } == message)
      for count in 0..<bytes.count {
        #expect(throws: WireError.self) {
          try bytes[..<count].withUnsafeBytes { try KeeperMessage($0) }
        }
      }
      #expect(throws: WireError.self) {
        try (bytes + [0]).withUnsafeBytes { try KeeperMessage($0) }
      }
    }
    #expect(throws: WireError.self) { try [UInt8(9)].withUnsafeBytes { try KeeperMessage($0) } }
  }
}

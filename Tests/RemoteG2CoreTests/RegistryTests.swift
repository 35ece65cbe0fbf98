import RemoteG2Core
import Testing

@Suite struct `A node's part in a registry` {
  static func at(_ seconds: Double) -> LocalInstant {
    LocalInstant(nanoseconds: Int64(seconds * 1e9))
  }
  static func place(_ name: PeerName, _ last: Int) -> Membership.Place {
    Membership.Place(name: name, address: StreamAddress(host: "10.0.0.\(last)", port: 7002))
  }
  static func entry(_ name: String, _ last: Int) -> RegistryMachine.Change {
    .init(name: name, text: "10.0.0.\(last):7001")
  }
  static func machine() -> RegistryMachine {
    RegistryMachine(name: "a", limits: Limits(), from: at(0))
  }

  @Test func `is entered with a lease, which is renewed three times in its life`() {
    var machine = Self.machine()
    #expect(machine.timePassed(at: Self.at(0)) == [.grant(lasts: .seconds(10)), .list])
    #expect(machine.nextDeadline == nil)
    #expect(machine.granted(7, lasts: .seconds(9), at: Self.at(1)) == [.enter(7)])
    #expect(machine.entered(.there, at: Self.at(1)) == [.tell("this node is in the registry")])
    #expect(machine.nextDeadline == Self.at(4))
    #expect(machine.timePassed(at: Self.at(3.9)) == [])
    #expect(machine.timePassed(at: Self.at(4)) == [.renew(7)])
    #expect(machine.renewed(lasts: .seconds(6), at: Self.at(4)) == [])
    #expect(machine.nextDeadline == Self.at(6))
  }

  @Test func `is entered anew when its lease has ended`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    _ = machine.granted(7, lasts: .seconds(9), at: Self.at(0))
    _ = machine.entered(.there, at: Self.at(0))
    _ = machine.timePassed(at: Self.at(3))
    #expect(machine.renewed(lasts: nil, at: Self.at(3)) == [.grant(lasts: .seconds(10))])
    #expect(machine.granted(8, lasts: .seconds(9), at: Self.at(3)) == [.enter(8)])
  }

  @Test func `whose name is taken says so, and tries again`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    _ = machine.granted(7, lasts: .seconds(9), at: Self.at(0))
    let told = "another node named a is in the registry, at x:1: names are unique in a fleet"
    #expect(machine.entered(.taken(by: "x:1"), at: Self.at(0)) == [.tell(told)])
    #expect(machine.nextDeadline == Self.at(3))
    #expect(machine.timePassed(at: Self.at(3)) == [.grant(lasts: .seconds(10))])
    _ = machine.granted(8, lasts: .seconds(9), at: Self.at(3))
    #expect(machine.entered(.taken(by: "x:1"), at: Self.at(3)) == [], "it has said so")
  }

  @Test func `knows all others, as they come and go`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    let all = [Self.entry("c", 3), Self.entry("a", 1), Self.entry("b", 2)]
    #expect(
      machine.listed(all, at: 40, Self.at(1)) == [
        .found([Self.place("b", 2), Self.place("c", 3)]), .watch(after: 40),
      ])
    #expect(
      machine.changed([.init(name: "b", text: nil), Self.entry("d", 4)])
        == [.found([Self.place("c", 3), Self.place("d", 4)])])
    // Heard for long enough, it is read as a whole again.
    #expect(machine.watchEnded(at: Self.at(31)) == [.list])
    #expect(
      machine.listed([Self.entry("d", 5)], at: 50, Self.at(31)) == [
        .found([Self.place("d", 5)]), .watch(after: 50),
      ])
  }

  @Test
  func `keeps the members that it knew while the registry is gone, and asks ever more rarely`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    _ = machine.listed([Self.entry("b", 2)], at: 1, Self.at(0))
    var (now, pauses) = (Self.at(1), [Duration]())
    for round in 0..<12 {
      let orders = machine.failed(.others, because: "gone", at: now)
      #expect(
        orders
          == (round == 0
            ? [.tell("the registry does not answer: gone; members stay as they are")] : []))
      let due = machine.nextDeadline!
      pauses.append(due - now)
      #expect(machine.timePassed(at: due) == [.list])
      now = due
    }
    #expect(pauses.first == Limits().ownRetryMin && pauses.last == .seconds(3))
    #expect(zip(pauses, pauses.dropFirst()).allSatisfy { $0 <= $1 })
  }

  @Test func `an own call that fails costs a new lease`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    _ = machine.granted(7, lasts: .seconds(9), at: Self.at(0))
    _ = machine.entered(.there, at: Self.at(0))
    _ = machine.timePassed(at: Self.at(3))
    _ = machine.failed(.own, because: "gone", at: Self.at(5))
    #expect(machine.timePassed(at: Self.at(6)) == [.grant(lasts: .seconds(10))])
  }

  @Test func `entries that are no members are told, and left out`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    let orders = machine.listed(
      [
        .init(name: "b", text: "nonsense"), .init(name: "c", text: "10.0.0.3:65535"),
        .init(name: String(repeating: "x", count: 40), text: "10.0.0.4:1"), Self.entry("d", 4),
      ], at: 1, Self.at(0))
    #expect(orders.first == .found([Self.place("d", 4)]))
    #expect(orders.filter { if case .tell = $0 { true } else { false } }.count == 3)
  }

  @Test func `a registry with too much in it has a limit`() {
    var machine = Self.machine()
    _ = machine.timePassed(at: Self.at(0))
    let orders = machine.listed(
      (0..<1000).map { .init(name: "n\($0)", text: "10.0.0.3:7001") }, at: 1, Self.at(0))
    guard case .found(let places)? = orders.first else {
      Issue.record("nobody was found")
      return
    }
    #expect(places.count == Limits().registryEntriesMax)
  }
}

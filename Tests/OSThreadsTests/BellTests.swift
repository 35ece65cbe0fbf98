import Glibc
import OSThreads
import RemoteG2Core
import Testing

@Suite struct `A bell that hears descriptors` {
  static var soon: LocalInstant { MonotonicClock.now() + .milliseconds(20) }
  static var never: LocalInstant { MonotonicClock.now() + .seconds(20) }

  @Test func `a ring before the wait is not lost, and many wake once`() {
    let bell = EventBell()
    bell.ring()
    bell.ring()
    #expect(bell.wait(until: Self.never) == .ring)
    #expect(bell.wait(until: Self.soon) == .nothing)
    bell.ring()
    #expect(bell.wait(until: Self.never) == .ring)
  }

  @Test func `a descriptor is told apart from a ring, and only while it is readable`() throws {
    let bell = EventBell()
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    defer { for end in ends { close(end) } }
    #expect(bell.wait(until: Self.soon, hearing: [ends[0]]) == .nothing)
    #expect(write(ends[1], [7], 1) == 1)
    #expect(bell.wait(until: Self.never, hearing: [ends[0]]) == .descriptor)
    #expect(bell.wait(until: Self.soon) == .nothing)
    bell.ring()
    #expect(bell.wait(until: Self.never, hearing: [ends[0]]) == .ring)
    var byte: UInt8 = 0
    #expect(read(ends[0], &byte, 1) == 1)
    #expect(bell.wait(until: Self.soon, hearing: [ends[0]]) == .nothing)
  }

  @Test func `more descriptors than fit one page of them are all heard, and closed ones are not`()
    throws
  {
    let bell = EventBell()
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    let copies = (0..<100).map { _ in dup(ends[0]) }
    var others: [Int32] = [-1, -1]
    try #require(pipe(&others) == 0)
    defer { for end in ends + copies + others { close(end) } }
    #expect(write(others[1], [7], 1) == 1)
    #expect(bell.wait(until: Self.never, hearing: copies + [others[0]]) == .descriptor)
    // A number that nobody else is given.
    let closed = fcntl(others[0], F_DUPFD, 900)
    try #require(closed >= 900)
    close(closed)
    // It would be "ready" at once, for ever.
    #expect(bell.wait(until: Self.soon, hearing: copies + [closed]) == .nothing)
    #expect(bell.wait(until: Self.never, hearing: [closed, others[0]]) == .descriptor)
    bell.ring()
    #expect(bell.wait(until: Self.never, hearing: [closed]) == .ring)
  }

  @Test func `no post is missed while another thread rings`() {
    let bell = EventBell()
    let box = Mailbox<Int>(ringing: bell)
    let writer = OSThread.start("bell-writer") { for value in 0..<20_000 { box.post(value) } }
    var next = 0
    while next < 20_000 {
      // Everything was posted before its ring: a wait that hears nothing for so long lost one.
      guard bell.wait(until: Self.never) == .ring else { break }
      for value in box.drain() {
        #expect(value == next)
        next += 1
      }
    }
    writer.join()
    next += box.drain().count
    #expect(next == 20_000)
    #expect(bell.wait(until: Self.soon) != .descriptor)
  }
}

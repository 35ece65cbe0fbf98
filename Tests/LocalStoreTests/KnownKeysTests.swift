import Foundation
import LocalStore
import RemoteG2Core
import Testing

@Suite struct `A table of known keys` {
  static func key(_ number: Int) -> BlockKey {
    // As keys are: every bit of them differs.
    var chance = SplitMix(number)
    return BlockKey(high: chance.next(), low: chance.next())
  }
  static func change(_ number: Int, _ isSealed: Bool) -> FeedChange {
    FeedChange(key: key(number), isSealed: isSealed)
  }

  struct SplitMix {
    private var state: UInt64
    init(_ seed: Int) { state = UInt64(seed) &* 0xd1b5_4a32_d192_ed03 }
    mutating func next() -> UInt64 {
      state &+= 0x9e37_79b9_7f4a_7c15
      var z = state
      z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
      return z ^ (z >> 31)
    }
  }

  @Test func `finds what somebody has, until the last who has it has it no more`() throws {
    let memory = try KnownKeysMemory(bytes: 1 << 16)
    defer { withExtendedLifetime(memory) {} }
    let table = memory.table
    #expect(!table.mayHave(Self.key(1)))
    table.note(Self.change(1, true))
    table.note(Self.change(1, true))
    table.note(Self.change(2, true))
    table.note(Self.change(1, false))
    #expect(table.mayHave(Self.key(1)) && table.mayHave(Self.key(2)))
    table.note(Self.change(1, false))
    #expect(!table.mayHave(Self.key(1)) && table.mayHave(Self.key(2)))
    table.note(Self.change(2, false))
    let empty = try KnownKeysMemory(bytes: 1 << 16)
    #expect(table.isSame(as: empty.table))
  }

  @Test func `finds few keys in vain while it has room`() throws {
    let memory = try KnownKeysMemory(bytes: 1 << 16)
    defer { withExtendedLifetime(memory) {} }
    let table = memory.table
    let count = table.count / 16
    for number in 0..<count { table.note(Self.change(number, true)) }
    #expect((0..<count).allSatisfy { table.mayHave(Self.key($0)) })
    // Each of two places is taken with a probability of one eighth.
    let inVain = (count..<count * 5).count { table.mayHave(Self.key($0)) }
    #expect((count / 40...count / 8).contains(inVain), "\(inVain) of \(count * 4)")
  }

  @Test func `a place that has lost count stays taken`() throws {
    let memory = try KnownKeysMemory(bytes: 64)
    defer { withExtendedLifetime(memory) {} }
    let table = memory.table
    for _ in 0..<300 { table.note(Self.change(7, true)) }
    for _ in 0..<300 { table.note(Self.change(7, false)) }
    #expect(table.mayHave(Self.key(7)))
  }

  @Test func `is read by who maps it, and cannot be written by him`() throws {
    let memory = try KnownKeysMemory(bytes: 8192)
    let mapping = try #require(KnownKeysMapping(memory.readOnlyDescriptor))
    #expect(!mapping.table.mayHave(Self.key(3)))
    memory.table.note(Self.change(3, true))
    #expect(mapping.table.mayHave(Self.key(3)))
    let writable = mmap(
      nil, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, memory.readOnlyDescriptor, 0)
    #expect(writable == MAP_FAILED && errno == EACCES)
  }

  @Test func `a file of another size is no table`() throws {
    let file = try PoolMemory(slotCount: 3, blockBytes: 4096, owner: Incarnation(high: 1, low: 1))
    #expect(KnownKeysMapping(file.readOnlyDescriptor) == nil)
    #expect(KnownKeysMapping(-1) == nil)
  }
}

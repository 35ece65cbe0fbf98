/// Which member announces which keys. Advice only: a member may have evicted by now what it announced, and a
/// block counts only when its bytes are proved.
package struct HolderIndex: Sendable {
  private let keysMax: Int
  private var table: HolderTable
  /// Each member's number in the table.
  private var numbers: [PeerName: Int] = [:]
  /// The number of the last change that was heard of a member; none until its snapshot is whole.
  private var heard: [PeerName: UInt64] = [:]
  private var free = Array((0..<HolderTable.holdersMax).reversed())
  /// Numbers of members that were forgotten, until nothing in the table is theirs.
  private var leaving: [Int] = []
  /// Keys that members have begun or ceased to announce since it was last taken.
  private var changes: [FeedChange] = []
  /// Places of the table that are looked at at once, to take away what is nobody's any more: some tens of microseconds.
  private static let placesPerSweep = 1 << 14

  /// - Parameters:
  ///   - keysMax: Keys remembered of one member; what it announces beyond them is not.
  ///   - seed: Drawn anew by each node.
  package init(keysMax: Int, seed: Incarnation = Incarnation(high: 0, low: 0)) {
    self.keysMax = keysMax
    table = HolderTable(seed: (seed.high, seed.low))
  }

  /// What all members announce, once for each of them.
  package var announcedCount: Int { numbers.values.reduce(0) { $0 + table.count(of: $1) } }
  package func isAnnounced(_ key: BlockKey) -> Bool { table.holders(of: key) != 0 }
  package func keyCount(of member: PeerName) -> Int {
    numbers[member].map { table.count(of: $0) } ?? 0
  }
  package func keys(of member: PeerName) -> Set<BlockKey> {
    Set(numbers[member].map { table.keys(of: $0) } ?? [])
  }

  /// A member's feed begins anew, or has ended: nothing that it announced counts.
  package mutating func forget(_ member: PeerName) {
    heard[member] = nil
    guard let number = numbers.removeValue(forKey: member) else { return }
    guard table.count(of: number) > 0 else {
      free.append(number)
      return
    }
    table.release(number)
    leaving.append(number)
    sweep()
  }

  package mutating func snapshot(_ keys: [BlockKey], of member: PeerName) {
    for key in keys { insert(key, of: member) }
    sweep()
  }

  /// - Returns: False when a change is missing: the member's feed must begin anew.
  package mutating func change(
    _ changes: [FeedChange], number: UInt64, of member: PeerName
  ) -> Bool {
    if let last = heard[member], number != last &+ 1 { return false }
    heard[member] = number
    for change in changes {
      if change.isSealed {
        insert(change.key, of: member)
      } else if let number = numbers[member], table.remove(change.key, holder: number) {
        self.changes.append(change)
      }
    }
    sweep()
    return true
  }

  /// How many leading keys a member announces.
  package func run(of keys: ArraySlice<BlockKey>, at member: PeerName) -> Int {
    guard let number = numbers[member] else { return 0 }
    let bit = UInt64(1) << UInt64(number)
    return table.holders(of: keys).prefix { $0 & bit != 0 }.count
  }

  /// The same of every member that announces the first.
  package func runs(of keys: ArraySlice<BlockKey>) -> [PeerName: Int] {
    var (left, runs) = (~UInt64(0), [Int](repeating: 0, count: HolderTable.holdersMax))
    for (place, holders) in table.holders(of: keys).enumerated() {
      left &= holders
      guard left != 0 else { break }
      var bits = left
      while bits != 0 {
        runs[bits.trailingZeroBitCount] = place + 1
        bits &= bits - 1
      }
    }
    var found: [PeerName: Int] = [:]
    for (member, number) in numbers where runs[number] > 0 { found[member] = runs[number] }
    return found
  }

  private mutating func insert(_ key: BlockKey, of member: PeerName) {
    guard let number = number(of: member), table.count(of: number) < keysMax,
      table.insert(key, holder: number)
    else { return }
    changes.append(FeedChange(key: key, isSealed: true))
  }

  /// - Returns: Nil when there are more members than numbers.
  private mutating func number(of member: PeerName) -> Int? {
    if let number = numbers[member] { return number }
    // Members that come and go wait for the sweep.
    while free.isEmpty, table.isSweeping { sweep() }
    guard let number = free.popLast() else { return nil }
    numbers[member] = number
    return number
  }

  /// Takes away some of what members that were forgotten have left behind.
  private mutating func sweep() {
    guard table.isSweeping else { return }
    var ceased: [FeedChange] = []
    table.sweep(places: Self.placesPerSweep) { ceased.append(FeedChange(key: $0, isSealed: false)) }
    changes += ceased
    free += leaving.filter { table.isSwept($0) }
    leaving.removeAll { table.isSwept($0) }
  }

  /// The same at a time at which nothing is heard.
  package mutating func timePassed() { sweep() }
  package var isSweeping: Bool { table.isSweeping }

  /// What members have begun and ceased to announce since the last call, once for each member and key.
  package mutating func takeChanges() -> [FeedChange] {
    guard !changes.isEmpty else { return [] }
    defer { changes = [] }
    return changes
  }
}

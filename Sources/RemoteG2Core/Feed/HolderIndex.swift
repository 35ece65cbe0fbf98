/// Which member announces which keys. Advice only: a member may have evicted by now what it announced, and a
/// block counts only when its bytes are proved.
package struct HolderIndex: Sendable {
  private struct Holder: Sendable {
    var keys: Set<BlockKey> = []
    /// The number of the last change that was heard; nil until the snapshot is whole.
    var number: UInt64?
  }

  private let keysMax: Int
  private var holders: [PeerName: Holder] = [:]
  /// Keys that members have begun or ceased to announce since it was last taken.
  private var changes: [FeedChange] = []

  /// - Parameter keysMax: Keys remembered of one member; what it announces beyond them is not.
  package init(keysMax: Int) { self.keysMax = keysMax }

  /// What all members announce, once for each of them.
  package var announcedCount: Int { holders.values.reduce(0) { $0 + $1.keys.count } }
  package func isAnnounced(_ key: BlockKey) -> Bool {
    holders.values.contains { $0.keys.contains(key) }
  }
  package func keyCount(of member: PeerName) -> Int { holders[member]?.keys.count ?? 0 }
  package func keys(of member: PeerName) -> Set<BlockKey> { holders[member]?.keys ?? [] }

  /// A member's feed begins anew, or has ended: nothing that it announced counts.
  package mutating func forget(_ member: PeerName) {
    guard let gone = holders.removeValue(forKey: member) else { return }
    changes += gone.keys.map { FeedChange(key: $0, isSealed: false) }
  }

  package mutating func snapshot(_ keys: [BlockKey], of member: PeerName) {
    for key in keys { insert(key, of: member) }
  }

  /// - Returns: False when a change is missing: the member's feed must begin anew.
  package mutating func change(
    _ changes: [FeedChange], number: UInt64, of member: PeerName
  ) -> Bool {
    if let last = holders[member]?.number, number != last &+ 1 { return false }
    holders[member, default: Holder()].number = number
    for change in changes {
      if change.isSealed {
        insert(change.key, of: member)
      } else if holders[member]?.keys.remove(change.key) != nil {
        self.changes.append(change)
      }
    }
    return true
  }

  /// How many leading keys a member announces.
  package func run(of keys: ArraySlice<BlockKey>, at member: PeerName) -> Int {
    guard let holder = holders[member] else { return 0 }
    return keys.prefix { holder.keys.contains($0) }.count
  }

  private mutating func insert(_ key: BlockKey, of member: PeerName) {
    guard keyCount(of: member) < keysMax else { return }
    guard holders[member, default: Holder()].keys.insert(key).inserted else { return }
    changes.append(FeedChange(key: key, isSealed: true))
  }

  /// What members have begun and ceased to announce since the last call, once for each member and key.
  package mutating func takeChanges() -> [FeedChange] {
    guard !changes.isEmpty else { return [] }
    defer { changes = [] }
    return changes
  }
}

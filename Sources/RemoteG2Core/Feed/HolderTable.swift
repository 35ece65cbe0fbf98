private struct Entry {
  var key: BlockKey
  /// None: there is no entry here.
  var holders: UInt64
}

/// Which of up to 64 holders have which keys: a bit for each. Twenty-four bytes for a key, and a quarter more.
///
/// Many small tables with open addressing, so that one that grows holds up nobody for long. A holder can be let go at
/// once: its bit counts no more, and what it leaves is swept up little by little.
struct HolderTable: Sendable {
  static let holdersMax = UInt64.bitWidth

  private static let shardBits = 10
  private static let shardCount = 1 << shardBits

  /// One of the small tables: where its entries are, and how many there are and could be.
  private struct Shard {
    var entries: UnsafeMutablePointer<Entry>
    var places = 0
    var count = 0
  }

  /// The entries of all shards. Copied when two tables share it and one of them changes.
  private final class Storage: @unchecked Sendable {
    // @unchecked: only a table that nobody shares it with changes it.
    let shards = UnsafeMutablePointer<Shard>.allocate(capacity: HolderTable.shardCount)
    /// An entry of nobody's, for keys whose shard has none.
    let nobody = Storage.entries(1)

    init() {
      for shard in 0..<HolderTable.shardCount {
        (shards + shard).initialize(to: Shard(entries: Self.entries(0)))
      }
    }

    init(copying other: Storage) {
      for shard in 0..<HolderTable.shardCount {
        var copy = other.shards[shard]
        copy.entries = Self.entries(copy.places)
        copy.entries.update(from: other.shards[shard].entries, count: copy.places)
        (shards + shard).initialize(to: copy)
      }
    }

    deinit {
      for shard in 0..<HolderTable.shardCount { shards[shard].entries.deallocate() }
      shards.deallocate()
      nobody.deallocate()
    }

    static func entries(_ places: Int) -> UnsafeMutablePointer<Entry> {
      let entries = UnsafeMutablePointer<Entry>.allocate(capacity: places)
      entries.initialize(
        repeating: Entry(key: BlockKey(high: 0, low: 0), holders: 0), count: places)
      return entries
    }
  }

  private var storage = Storage()
  private var shards: UnsafeMutablePointer<Shard> { storage.shards }
  private var nobody: UnsafePointer<Entry> { UnsafePointer(storage.nobody) }
  /// Drawn, and told to nobody, so that no member can choose keys that all want one place.
  private let seed: (UInt64, UInt64)
  private var counts = [Int](repeating: 0, count: HolderTable.holdersMax)
  /// Holders that were let go, and the shard that is swept next.
  private var gone: UInt64 = 0
  private var swept = 0
  /// Those of them that were let go after the sweep had begun.
  private var goneLate: UInt64 = 0

  init(seed: (UInt64, UInt64)) { self.seed = seed }

  // MARK: Places

  private func hash(_ key: BlockKey) -> UInt64 {
    // Each half by itself, so that neither can be chosen to take the other out.
    let high = (key.high ^ seed.0).multipliedFullWidth(by: 0x9E37_79B9_7F4A_7C15 ^ seed.1)
    let low = (key.low ^ seed.1).multipliedFullWidth(by: 0xBF58_476D_1CE4_E5B9 ^ seed.0)
    let product = (high.high ^ high.low ^ seed.1).multipliedFullWidth(
      by: low.high ^ low.low ^ seed.0)
    return product.high ^ product.low
  }

  private static func shard(of hash: UInt64) -> Int { Int(hash >> (64 - UInt64(shardBits))) }

  /// Where it belongs in a shard of so many places. In the order of hashes.
  private static func home(_ hash: UInt64, _ places: Int) -> Int {
    Int((hash << UInt64(shardBits)).multipliedFullWidth(by: UInt64(places)).high)
  }

  /// - Returns: Where the key is, or where it would be put. The shard has a free place.
  private static func place(of key: BlockKey, _ hash: UInt64, in shard: Shard) -> Int {
    place(of: key, from: home(hash, shard.places), in: shard)
  }

  private static func place(of key: BlockKey, from home: Int, in shard: Shard) -> Int {
    var place = home
    while shard.entries[place].holders != 0, shard.entries[place].key != key {
      place += 1
      if place == shard.places { place = 0 }
    }
    return place
  }

  /// Before anything is changed.
  private mutating func makeOwn() {
    if !isKnownUniquelyReferenced(&storage) { storage = Storage(copying: storage) }
  }

  // MARK: Looking up

  /// Who has it.
  func holders(of key: BlockKey) -> UInt64 {
    let hash = hash(key)
    let shard = shards[Self.shard(of: hash)]
    guard shard.count > 0 else { return 0 }
    defer { withExtendedLifetime(storage) {} }
    return shard.entries[Self.place(of: key, hash, in: shard)].holders & ~gone
  }

  /// Who has each of them.
  func holders(of keys: ArraySlice<BlockKey>) -> [UInt64] {
    defer { withExtendedLifetime(storage) {} }
    return withUnsafeTemporaryAllocation(of: Probe.self, capacity: keys.count) { probes in
      for (number, key) in keys.enumerated() {
        probes.initializeElement(at: number, to: probe(key))
      }
      // What they will need is read before any is looked at, by so short a loop that a processor waits for many of them
      // at a time.
      var near: UInt64 = 0
      for probe in probes { near |= probe.first.pointee.holders | probe.last.pointee.holders }
      // Nothing where any of them belongs: none is here.
      guard near != 0 else { return [UInt64](repeating: 0, count: keys.count) }
      return keys.enumerated().map { number, key in
        guard let shard = probes[number].shard else { return 0 }
        let place = Self.place(of: key, from: probes[number].home, in: shard)
        return shard.entries[place].holders & ~gone
      }
    }
  }

  /// Where one key is looked for.
  private struct Probe {
    /// So many places fit what a processor reads at once.
    static let reach = 2
    /// Nil where nothing is.
    let shard: Shard?
    let home: Int
    /// What is there, and a little further on.
    let first: UnsafePointer<Entry>
    let last: UnsafePointer<Entry>
  }

  private func probe(_ key: BlockKey) -> Probe {
    let hash = hash(key)
    let shard = shards[Self.shard(of: hash)]
    guard shard.count > 0 else {
      return Probe(shard: nil, home: 0, first: nobody, last: nobody)
    }
    let home = Self.home(hash, shard.places)
    return Probe(
      shard: shard, home: home, first: shard.entries + home,
      last: shard.entries + min(home + Probe.reach, shard.places - 1))
  }

  func count(of holder: Int) -> Int { counts[holder] }

  /// Every key that a holder has.
  func keys(of holder: Int) -> [BlockKey] {
    let bit = UInt64(1) << UInt64(holder)
    var keys: [BlockKey] = []
    for shard in 0..<Self.shardCount {
      for place in 0..<shards[shard].places where shards[shard].entries[place].holders & bit != 0 {
        keys.append(shards[shard].entries[place].key)
      }
    }
    return keys
  }

  var keyCount: Int { (0..<Self.shardCount).reduce(0) { $0 + shards[$1].count } }

  // MARK: Changing

  /// - Returns: Whether it did not have it.
  mutating func insert(_ key: BlockKey, holder: Int) -> Bool {
    makeOwn()
    let hash = hash(key)
    let shard = Self.shard(of: hash)
    if shards[shard].count * 5 >= shards[shard].places * 4 { grow(shard) }
    let place = Self.place(of: key, hash, in: shards[shard])
    let bit = UInt64(1) << UInt64(holder)
    let before = shards[shard].entries[place].holders
    guard before & bit == 0 else { return false }
    if before == 0 { shards[shard].count += 1 }
    shards[shard].entries[place] = Entry(key: key, holders: before | bit)
    counts[holder] += 1
    return true
  }

  /// - Returns: Whether it had it.
  mutating func remove(_ key: BlockKey, holder: Int) -> Bool {
    makeOwn()
    let hash = hash(key)
    let shard = Self.shard(of: hash)
    guard shards[shard].count > 0 else { return false }
    let place = Self.place(of: key, hash, in: shards[shard])
    let bit = UInt64(1) << UInt64(holder)
    guard shards[shard].entries[place].holders & bit != 0 else { return false }
    counts[holder] -= 1
    shards[shard].entries[place].holders &= ~bit
    if shards[shard].entries[place].holders == 0 { close(place, shard) }
    return true
  }

  /// An entry has gone: what stands behind it because of it moves up.
  private mutating func close(_ hole: Int, _ shard: Int) {
    shards[shard].count -= 1
    let places = shards[shard].places
    var (hole, next) = (hole, hole + 1 == places ? 0 : hole + 1)
    while shards[shard].entries[next].holders != 0 {
      let home = Self.home(hash(shards[shard].entries[next].key), places)
      // How far each is from where this entry belongs, going forwards.
      let (now, then) = ((next - home + places) % places, (hole - home + places) % places)
      if then < now {
        shards[shard].entries[hole] = shards[shard].entries[next]
        shards[shard].entries[next].holders = 0
        hole = next
      }
      next = next + 1 == places ? 0 : next + 1
    }
  }

  private mutating func grow(_ shard: Int) {
    let old = shards[shard]
    let places = max(8, old.places + old.places / 4)
    let new = Shard(entries: Storage.entries(places), places: places, count: old.count)
    for place in 0..<old.places where old.entries[place].holders != 0 {
      let key = old.entries[place].key
      new.entries[Self.place(of: key, hash(key), in: new)] = old.entries[place]
    }
    old.entries.deallocate()
    shards[shard] = new
  }

  // MARK: Letting a holder go

  /// Nothing that it has counts from now on. Its number may be given to another once ``isSwept(_:)``.
  mutating func release(_ holder: Int) {
    let bit = UInt64(1) << UInt64(holder)
    if gone == 0 { swept = 0 } else { goneLate |= bit }
    gone |= bit
    counts[holder] = 0
  }

  func isSwept(_ holder: Int) -> Bool { gone & UInt64(1) << UInt64(holder) == 0 }
  var isSweeping: Bool { gone != 0 }

  /// Sweeps shards until it has looked at so many places.
  ///
  /// - Parameter tell: Told each key that a holder that was let go had, once for each such holder.
  mutating func sweep(places most: Int, _ tell: (BlockKey) -> Void) {
    makeOwn()
    var left = most
    while gone != 0, left > 0 {
      left -= shards[swept].places
      sweep(swept, tell)
      swept += 1
      guard swept == Self.shardCount else { continue }
      // Those that went in the middle have left something in what was swept before.
      gone = goneLate
      goneLate = 0
      swept = 0
    }
  }

  private mutating func sweep(_ shard: Int, _ tell: (BlockKey) -> Void) {
    var place = 0
    while place < shards[shard].places {
      let left = shards[shard].entries[place].holders & gone
      guard left != 0 else {
        place += 1
        continue
      }
      for _ in 0..<left.nonzeroBitCount { tell(shards[shard].entries[place].key) }
      shards[shard].entries[place].holders &= ~gone
      guard shards[shard].entries[place].holders == 0 else {
        place += 1
        continue
      }
      // Another may have moved here.
      close(place, shard)
    }
  }
}

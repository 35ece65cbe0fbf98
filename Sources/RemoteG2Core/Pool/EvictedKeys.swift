/// Keys that were evicted, with when that was: so many, the newest.
struct EvictedKeys: Sendable {
  private var times: [BlockKey: UInt64] = [:]
  /// The same, oldest first. An entry counts while it says when its key was evicted.
  private var order: [(key: BlockKey, at: UInt64)] = []
  private var head = 0

  var count: Int { times.count }

  mutating func insert(_ key: BlockKey, at time: UInt64, atMost most: Int) {
    times[key] = time
    order.append((key, time))
    while times.count > most, head < order.count {
      let oldest = order[head]
      head += 1
      if times[oldest.key] == oldest.at { times[oldest.key] = nil }
    }
    // What has been dropped, or has come back, is let go before it outnumbers what counts.
    if head > 1024, head * 2 > order.count {
      order.removeFirst(head)
      head = 0
    } else if order.count - head > 2 * times.count + 1024 {
      order = order[head...].filter { times[$0.key] == $0.at }
      head = 0
    }
  }

  mutating func remove(_ key: BlockKey) -> UInt64? { times.removeValue(forKey: key) }
}

/// The orders for the ranks that no plan has carried yet, in the order they were given.
package struct OrderQueue {
  private var orders: [RankOrder] = []
  private let blocksMax: Int

  /// - Parameter blocksMax: Blocks that the orders of one plan name at most; a longer order goes alone.
  package init(blocksMax: Int) { self.blocksMax = blocksMax }

  package var isEmpty: Bool { orders.isEmpty }

  package mutating func append(_ order: RankOrder) { orders.append(order) }

  /// The orders of the next plan. Addresses and digests can be long: a plan has its bound, and the rest
  /// comes with the next one.
  package mutating func takePlan() -> [RankOrder] {
    guard !orders.isEmpty else { return [] }
    var (announced, named, end) = (0, 0, 0)
    while end < orders.count {
      switch orders[end] {
      case .attach: announced += 1
      case .load(_, _, let moves, _): named += moves.count
      case .checkDigests(_, let expected): named += expected.count
      case .stage(let blocks): named += blocks.count
      case .stopPosting, .forget, .sourceDied, .rig: break
      }
      if end > 0, announced > 1 || named > blocksMax { break }
      end += 1
    }
    if end == orders.count {
      let taken = orders
      orders = []
      return taken
    }
    let taken = Array(orders[..<end])
    orders.removeSubrange(..<end)
    return taken
  }
}

import RemoteG2Core
import Testing

@Suite struct `Orders for the ranks` {
  static let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))

  static func load(_ fetch: Int, blocks: Int) -> RankOrder {
    .load(
      FetchID(UInt64(fetch)), from: source,
      moves: (0..<blocks).map { BlockMove(target: BlockIndex($0), source: SlotIndex($0)) },
      stall: nil)
  }
  static func check(_ fetch: Int, blocks: Int) -> RankOrder {
    .checkDigests(
      FetchID(UInt64(fetch)),
      (0..<blocks).map { ExpectedBlock(key: BlockKey(high: UInt64($0), low: 1), digests: [nil]) })
  }
  static func stage(blocks: Int) -> RankOrder {
    .stage(
      (0..<blocks).map {
        BlockSave(
          block: BlockIndex($0), key: BlockKey(high: UInt64($0), low: 1),
          store: source.incarnation)
      })
  }
  static func attach(_ number: UInt64) -> RankOrder { .attach(number, source, []) }

  /// What each plan takes of these orders, until none is left.
  static func plans(_ orders: [RankOrder], blocksMax: Int) -> [[RankOrder]] {
    var queue = OrderQueue(blocksMax: blocksMax)
    for order in orders { queue.append(order) }
    var plans: [[RankOrder]] = []
    while !queue.isEmpty, plans.count < 20 { plans.append(queue.takePlan()) }
    #expect(queue.takePlan() == [])
    return plans
  }

  @Test func `are given once, in order`() {
    let orders = [
      Self.load(1, blocks: 2), .stopPosting(FetchID(1)), Self.check(1, blocks: 1),
      .forget(FetchID(1)), .sourceDied(Self.source), .rig([1, 2]),
    ]
    #expect(Self.plans(orders, blocksMax: 100) == [orders])
  }

  @Test(arguments: [load(2, blocks: 5), check(2, blocks: 5), stage(blocks: 5)])
  func `name as many blocks as a plan may, and the next one waits`(order: RankOrder) {
    #expect(Self.plans([Self.load(1, blocks: 5), order], blocksMax: 10).count == 1)
    #expect(
      Self.plans([Self.load(1, blocks: 5), order], blocksMax: 9) == [
        [Self.load(1, blocks: 5)], [order],
      ])
  }

  @Test func `that name more blocks than a plan may go alone`() {
    let long = Self.load(1, blocks: 30)
    let short = Self.load(2, blocks: 1)
    #expect(Self.plans([long, short], blocksMax: 10) == [[long], [short]])
    #expect(Self.plans([short, long, short], blocksMax: 10) == [[short], [long], [short]])
  }

  @Test func `attach one source a plan, for its addresses are long`() {
    let forget = RankOrder.forget(FetchID(1))
    #expect(
      Self.plans([Self.attach(1), forget, Self.attach(2), Self.attach(3)], blocksMax: 10) == [
        [Self.attach(1), forget], [Self.attach(2)], [Self.attach(3)],
      ])
  }
}

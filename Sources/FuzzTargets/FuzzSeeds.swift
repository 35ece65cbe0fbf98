import RemoteG2Core

/// Whole conversations, which changing bytes at random would hardly ever find.
extension FuzzTarget {
  package var seeds: [[UInt8]] {
    switch self {
    case .watch: Self.feeds.map(Self.encoded)
    case .serve: Self.questions.map(Self.encoded)
    case .pull: Self.answers
    case .stream: (Self.feeds + Self.questions).map(Self.encoded)
    case .local, .plan, .report, .order, .rankReport, .keeper, .services, .table, .engine: []
    }
  }

  private static func encoded(_ messages: [StreamMessage]) -> [UInt8] {
    messages.flatMap(StreamCodec.encode)
  }

  private static func key(_ number: UInt64) -> BlockKey { BlockKey(high: 0, low: number) }
  private static let stranger = Incarnation(high: 8, low: 8)
  private static let welcome = StreamMessage.welcome(StreamWelcome(node: stranger, name: "b"))

  private static func change(_ key: BlockKey, _ isSealed: Bool, again: Bool = false) -> FeedChange {
    FeedChange(key: key, isSealed: isSealed, wasProtected: again)
  }

  /// What a member that is watched says.
  private static let feeds: [[StreamMessage]] = {
    let (keys, pools) = ((0..<6).map(key), StreamMessage.pools([FuzzedNode.terms]))
    let begins = [welcome, pools, .snapshot(keys, isLast: true)]
    return [
      begins + [.beat, .beat],
      begins + [
        .changes(number: 1, [change(key(7), true), change(key(0), false)]),
        .changes(number: 2, [change(key(1), false, again: true)]), .beat,
      ],
      // One is missing.
      begins + [.changes(number: 1, [change(key(9), true)]), .changes(number: 3, [])],
      [welcome, .snapshot(keys, isLast: false), .snapshot(keys, isLast: false), pools, .beat],
      begins + [.pools([]), .changes(number: 1, []), pools, .beat],
      [.refused("another version")],
      [welcome, .busy(others: ["c"]), .beat],
      begins + begins,
      // It says that it is this node.
      [.welcome(StreamWelcome(node: Incarnation(high: 1, low: 1), name: "a")), pools],
    ]
  }()

  /// What a member that asks says.
  private static let questions: [[StreamMessage]] = {
    func hello(_ terms: PoolTerms?, version: UInt32 = StreamMessage.version) -> StreamMessage {
      .hello(StreamHello(version: version, node: stranger, name: "b", terms: terms))
    }
    var other = FuzzedNode.terms
    other.blockBytes *= 2
    let forBlocks = hello(FuzzedNode.terms)
    let all = (0..<6).map(key)
    return [
      [forBlocks, .ask(keys: all, isLast: true)],
      [
        forBlocks, .ask(keys: Array(all[..<3]), isLast: false),
        .ask(keys: Array(all[3...]), isLast: true), .ask(keys: all, isLast: true),
      ],
      [forBlocks, .ask(keys: all + [key(99)], isLast: true), .ask(keys: [key(99)], isLast: true)],
      [forBlocks, .ask(keys: all.reversed(), isLast: true)],
      [forBlocks, .ask(keys: [], isLast: true)],
      [forBlocks, .watch],
      [hello(nil), .watch],
      [hello(nil), .watch, .watch],
      [hello(nil), .ask(keys: all, isLast: true)],
      [hello(other), .ask(keys: all, isLast: true)],
      [hello(nil, version: 1)],
      [.watch],
      [forBlocks, forBlocks],
    ]
  }()

  /// What a member that was asked says, with the bytes of blocks between its frames.
  private static let answers: [[UInt8]] = {
    let digests = [Digest128(high: 1, low: 1)]
    let bytes = [UInt8](repeating: 7, count: FuzzedNode.terms.blockBytes)
    func block(_ position: Int) -> [UInt8] {
      StreamCodec.encode(.block(position: position, digests: digests)) + bytes
    }
    func conversation(_ positions: [Int], _ end: StreamMessage) -> [UInt8] {
      StreamCodec.encode(welcome) + positions.flatMap(block) + StreamCodec.encode(end)
    }
    return [
      conversation([0, 1, 2, 3], .end(.served)),
      conversation([0, 1], .end(.lacking)),
      conversation([], .end(.lacking)),
      conversation([], .busy(others: ["c", "d"])),
      conversation([0, 2], .end(.served)),
      conversation([0, 0], .end(.served)),
      conversation([3, 2, 1, 0], .end(.served)),
      conversation([0, 1, 2, 3, 4], .end(.served)),
      conversation([0], .end(.served)),
      StreamCodec.encode(.refused("no")),
      StreamCodec.encode(welcome) + StreamCodec.encode(.beat),
    ]
  }()
}

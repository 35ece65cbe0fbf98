import RemoteG2Core
import Testing

@Suite struct `A feed` {
  static func key(_ number: Int) -> BlockKey { BlockKey(high: UInt64(number), low: 3) }
  static func sealed(_ number: Int) -> FeedChange {
    FeedChange(key: key(number), isSealed: true)
  }

  @Test func `tells every change once, in numbered batches`() {
    var feed = Feed(changesMax: 100)
    #expect(feed.next(after: 0) == .upToDate)
    feed.note([Self.sealed(1), Self.sealed(2)])
    feed.note([Self.sealed(3)])
    #expect(feed.next(after: 0) == .batch(number: 1, [Self.sealed(1), Self.sealed(2)]))
    #expect(feed.next(after: 1) == .batch(number: 2, [Self.sealed(3)]))
    #expect(feed.next(after: 2) == .upToDate)
  }

  @Test func `forgets what nobody may need any more, and says so to whoever does`() {
    var feed = Feed(changesMax: 10)
    for number in 0..<5000 { feed.note([Self.sealed(number)]) }
    #expect(feed.next(after: 4989) == .forgotten)
    #expect(feed.next(after: 4990) == .batch(number: 4991, [Self.sealed(4990)]))
    #expect(feed.next(after: 4999) == .batch(number: 5000, [Self.sealed(4999)]))
  }

  @Test func `cuts what is too much for one message`() {
    var feed = Feed(changesMax: 1 << 20)
    feed.note((0..<5000).map(Self.sealed))
    #expect(feed.number == 3)
    var (last, heard): (UInt64, [FeedChange]) = (0, [])
    while case .batch(let number, let changes) = feed.next(after: last) {
      #expect(number == last + 1 && changes.count <= Feed.changesPerBatch)
      (last, heard) = (number, heard + changes)
    }
    #expect(heard == (0..<5000).map(Self.sealed))
  }
}

@Suite struct `An index of holders` {
  static let keys = (0..<6).map(`A feed`.key)

  @Test func `knows the leading keys that a member announces`() {
    var index = HolderIndex(keysMax: 100)
    index.snapshot([Self.keys[0], Self.keys[1], Self.keys[3]], of: "b")
    #expect(index.run(of: Self.keys[...], at: "b") == 2)
    #expect(index.run(of: Self.keys[1...], at: "b") == 1)
    #expect(index.run(of: Self.keys[...], at: "c") == 0)
    #expect(
      index.change([FeedChange(key: Self.keys[2], isSealed: true)], number: 8, of: "b") == true)
    #expect(index.run(of: Self.keys[...], at: "b") == 4)
    #expect(
      index.change([FeedChange(key: Self.keys[0], isSealed: false)], number: 9, of: "b") == true)
    #expect(index.run(of: Self.keys[...], at: "b") == 0)
  }

  @Test func `says of each member and key once when it is announced and when not any more`() {
    var index = HolderIndex(keysMax: 3)
    func change(_ place: Int, _ isSealed: Bool) -> FeedChange {
      FeedChange(key: Self.keys[place], isSealed: isSealed)
    }
    index.snapshot([Self.keys[0], Self.keys[1], Self.keys[0]], of: "b")
    index.snapshot([Self.keys[0]], of: "c")
    #expect(index.takeChanges() == [change(0, true), change(1, true), change(0, true)])
    #expect(index.takeChanges() == [])
    // One that it has, one that is new, one beyond what is remembered; one that goes, and one that never came.
    let news = [
      change(0, true), change(2, true), change(3, true), change(1, false), change(4, false),
    ]
    #expect(index.change(news, number: 1, of: "b") == true)
    #expect(index.takeChanges() == [change(2, true), change(1, false)])
    index.forget("b")
    index.forget("b")
    #expect(Set(index.takeChanges().map(\.key)) == [Self.keys[0], Self.keys[2]])
    index.forget("c")
    #expect(index.takeChanges() == [change(0, false)])
  }

  @Test func `takes no change after a gap`() {
    var index = HolderIndex(keysMax: 100)
    #expect(index.change([], number: 5, of: "b") == true)
    #expect(index.change([], number: 7, of: "b") == false)
    index.forget("b")
    #expect(index.change([], number: 7, of: "b") == true)
  }

  @Test func `remembers no more of a member than it may`() {
    var index = HolderIndex(keysMax: 3)
    index.snapshot(Self.keys, of: "b")
    #expect(index.keyCount(of: "b") == 3)
    #expect(
      index.change([FeedChange(key: Self.keys[0], isSealed: false)], number: 1, of: "b") == true)
    #expect(index.keys(of: "b") == Set(Self.keys[1..<3]))
  }
}

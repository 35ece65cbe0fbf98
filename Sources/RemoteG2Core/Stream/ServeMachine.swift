/// One connection from another member, as the node that answers it sees it: what it asked, and what it is to be
/// sent next.
///
/// Pure. The shell receives frames and sends what ``parts(atMost:)`` says; where that needs the node's core, it is given.
package struct ServeMachine: Sendable {
  private enum Role: Sendable {
    case stranger
    case forBlocks(PoolTerms)
    /// It has said that it is for no blocks.
    case forFeed
    case watcher(FeedWatcher)
  }

  /// What to do next.
  package enum Next: Equatable, Sendable {
    /// Send what ``parts(atMost:)`` says, and say how much with ``sent(_:at:)``.
    case send
    /// Call ``prepare(_:at:)``.
    case prepare
    /// There is nothing to send: frames may be received.
    case idle
    /// Close it.
    case over
  }

  /// A piece of what is sent next.
  package enum Part: Equatable, Sendable {
    /// All that is in ``outgoing``.
    case queued
    /// Of ``frames``.
    case frames(Range<Int>)
    /// Of a block in ``pool`` that is pinned.
    case body(SlotIndex, rank: Int, offset: Int, count: Int)
  }

  /// What is sent at once has at most so many parts.
  package static let partsMax = 64

  /// What waits to be sent before any block.
  package var outgoing = SendQueue()
  private let limits: Limits
  private var role = Role.stranger
  private var intake = FrameIntake()
  /// The question that is being asked, or answered.
  private var keys: [BlockKey] = []
  package private(set) var isAnswering = false
  /// Of that question: it names the prefix.
  private var lastKey: BlockKey?
  /// What it calls itself.
  private var reader: PeerName = ""
  private var window: SendWindow?
  /// Of the block after the window.
  private var position = 0
  /// Of the answer that is under way: the pool may have been replaced since the one before.
  package private(set) var pool: PoolNumber?
  /// Since when it has been told less than there is, and how much it has taken since then.
  private var slowSince: LocalInstant?
  private var takenSince = 0
  private var saidAt: LocalInstant
  private let cameAt: LocalInstant
  /// What is in `outgoing` is the last thing that it hears.
  private var isLast = false

  package init(limits: Limits, at now: LocalInstant) {
    self.limits = limits
    saidAt = now
    cameAt = now
  }

  /// Whether there is more for it than it takes now.
  package var isBlocked: Bool { slowSince != nil }

  // MARK: What it says

  /// How many bytes of a frame may be received; nil: its last question comes first, and what was said of it.
  package var wanted: Int? {
    isAnswering || isLast || !outgoing.isEmpty ? nil : intake.wanted
  }

  /// - Parameter names: Of its certificate; nil where nobody shows one.
  /// - Returns: False for what no member says: it is cut off.
  package mutating func took(
    _ piece: UnsafeRawBufferPointer, from names: [String]? = nil, _ core: inout NodeCore
  ) -> Bool {
    do throws(WireError) {
      guard let message = try intake.take(piece) else { return true }
      return received(message, from: names, &core)
    } catch { return false }
  }

  private mutating func received(
    _ message: StreamMessage, from names: [String]?, _ core: inout NodeCore
  ) -> Bool {
    switch (message, role) {
    case (.hello(let hello), .stranger): greeted(hello, from: names, &core)
    case (.watch, .forFeed): role = .watcher(FeedWatcher())
    case (.ask(let page, let isLast), .forBlocks(let terms)):
      guard keys.count + page.count <= limits.blocksPerFetchMax, !page.isEmpty else { return false }
      keys += page
      if isLast { begin(terms, &core) }
    default: return false
    }
    return true
  }

  private mutating func greeted(
    _ hello: StreamHello, from names: [String]?, _ core: inout NodeCore
  ) {
    if let reason = HandshakeRefusal.imposture(of: hello.name, names: names) {
      return refuse(reason)
    }
    guard hello.version == StreamMessage.version else {
      return refuse(
        "stream protocol \(hello.version); this node speaks \(StreamMessage.version): run both "
          + "from one release")
    }
    reader = hello.name
    switch core.serveBegins(hello) {
    case .success:
      guard let terms = hello.terms else { preconditionFailure("blocks are of some pool") }
      role = .forBlocks(terms)
    case .failure(.notForBlocks): role = .forFeed
    case .failure(let refusal): return refuse(refusal.description)
    }
    outgoing.add(.welcome(StreamWelcome(node: core.node, name: core.name)))
  }

  private mutating func refuse(_ reason: String) {
    outgoing.add(.refused(reason))
    isLast = true
  }

  private mutating func begin(_ terms: PoolTerms, _ core: inout NodeCore) {
    isAnswering = true
    position = 0
    pool = core.poolNumber(of: terms)
  }

  /// - Returns: Whether the question is answered: there may be too many.
  private mutating func mayBegin(_ core: inout NodeCore, at now: LocalInstant) -> Bool {
    guard lastKey == nil else { return true }
    guard let last = keys.last else { preconditionFailure("a question is for some key") }
    if case .busy(let others) = core.serves(last, to: reader, at: now) {
      outgoing.add(.busy(others: others))
      keys = []
      pool = nil
      isAnswering = false
      return false
    }
    lastKey = last
    return true
  }

  // MARK: What it is sent

  package mutating func next() -> Next {
    let next = nextToSend
    // Who has taken all that there was is not slow.
    if next == .idle { slowSince = nil }
    return next
  }

  private var nextToSend: Next {
    if !outgoing.isEmpty { return .send }
    if isLast { return .over }
    if let window, !window.isSent { return .send }
    if case .watcher = role { return .prepare }
    return isAnswering ? .prepare : .idle
  }

  /// What is sent next, in order.
  ///
  /// - Parameter bytes: Of blocks and their frames, at most.
  package func parts(atMost bytes: Int) -> [Part] {
    let queued = outgoing.isEmpty ? [] : [Part.queued]
    return queued + (window?.parts(atMost: bytes, Self.partsMax - queued.count) ?? [])
  }

  /// Of the blocks that are being sent.
  package var frames: [UInt8] { window?.frames ?? [] }

  /// So many bytes of what was next have been sent.
  package mutating func sent(_ count: Int, at now: LocalInstant) {
    takenSince += count
    saidAt = now
    if takenSince >= limits.readerProgressBytes { slowSince = nil }
    let ofQueue = min(count, outgoing.count)
    outgoing.took(ofQueue)
    if count > ofQueue { window!.sent(count - ofQueue) }
  }

  /// It takes nothing now, though there is more for it.
  ///
  /// - Returns: Whether that has lasted too long: it is cut off.
  package mutating func blocked(at now: LocalInstant) -> Bool {
    guard let since = slowSince else {
      slowSince = now
      takenSince = 0
      return false
    }
    return now - since >= limits.readerStallMax
  }

  /// Finds out what to send next.
  ///
  /// - Returns: False when there is nothing now.
  package mutating func prepare(_ core: inout NodeCore, at now: LocalInstant) -> Bool {
    let hasMore = hasNext(&core, at: now)
    if !hasMore { slowSince = nil }
    return hasMore
  }

  private mutating func hasNext(_ core: inout NodeCore, at now: LocalInstant) -> Bool {
    switch role {
    case .forBlocks:
      guard isAnswering else { return false }
      guard mayBegin(&core, at: now) else { return true }
      drop(&core)
      if let pool, case .forBlocks(let terms) = role {
        let blocks = core.serve(keys, from: position, in: pool)
        position += blocks.count
        guard blocks.isEmpty else {
          window = SendWindow(blocks, of: terms)
          return true
        }
      }
      outgoing.add(.end(position == keys.count ? .served : .lacking))
      keys = []
      pool = nil
      endAnswer(&core)
    case .watcher(var watcher):
      let answer = core.next(for: &watcher)
      role = .watcher(watcher)
      switch answer {
      case .say(let message): outgoing.add(message)
      case .tooSlow: isLast = true
      case .upToDate:
        guard now - saidAt >= limits.feedBeat else { return false }
        outgoing.add(.beat)
      }
    case .stranger, .forFeed: return false
    }
    return true
  }

  /// Lets go of all that it holds.
  package mutating func close(_ core: inout NodeCore) {
    drop(&core)
    endAnswer(&core)
  }

  private mutating func endAnswer(_ core: inout NodeCore) {
    isAnswering = false
    guard let lastKey else { return }
    self.lastKey = nil
    core.served(lastKey, to: reader)
  }

  private mutating func drop(_ core: inout NodeCore) {
    guard let pool, let window else { return }
    core.sent(window.blocks, count: window.sentCount, in: pool)
    self.window = nil
  }

  // MARK: Time

  /// Whether it is to be closed for having said nothing.
  package func isOverdue(at now: LocalInstant) -> Bool {
    switch role {
    case .stranger, .forFeed: return now - cameAt >= limits.strangerMax
    case .forBlocks, .watcher: return false
    }
  }

  package var nextDeadline: LocalInstant? {
    if let slowSince { return slowSince + limits.readerStallMax }
    switch role {
    case .watcher: return saidAt + limits.feedBeat
    case .stranger, .forFeed: return cameAt + limits.strangerMax
    case .forBlocks: return nil
    }
  }
}

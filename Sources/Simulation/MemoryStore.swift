internal import KVTransfer
package import LocalStore
package import RemoteG2Core

/// A store in this process: the shipped ledger, desk and pool writer over plain memory, without a socket
/// or a thread. Its user delivers its messages, when and if it likes.
package final class MemoryStore: @unchecked Sendable {
  // @unchecked: one simulation or test, on one thread.
  package let incarnation: Incarnation
  package var ledger: StoreLedger
  package private(set) var desk: LocalDesk
  /// One per rank.
  package let pools: [MemoryPool]
  private let writers: [PoolWriter.Pool]
  private var staging: [ConnectionID: BlockMemory] = [:]
  private var links: [ConnectionID: MemoryLink] = [:]
  /// Begun, and not finished: the words say so, the bytes may be anything.
  private var copies: [(copy: StageCopy, memories: [BlockMemory?])] = []
  /// Called when a copy was begun; nil: it is finished at once.
  package var onCopy: (() -> Void)?

  /// One rank's pool with its words.
  package final class MemoryPool: @unchecked Sendable {
    // @unchecked: as its store.
    package let memory: BlockMemory
    package let words: GenerationWords
    private let wordMemory: UnsafeMutableRawPointer

    init(blockBytes: Int, slotCount: Int) {
      memory = BlockMemory(blockBytes: blockBytes, blockCount: slotCount)
      wordMemory = .allocate(byteCount: slotCount * 8, alignment: 64)
      wordMemory.initializeMemory(as: UInt64.self, repeating: 0, count: slotCount)
      words = GenerationWords(wordMemory, count: slotCount)
    }

    deinit { wordMemory.deallocate() }
  }

  package init(
    incarnation: Incarnation, fingerprint: Fingerprint, slotCount: Int, blockBytes: Int,
    limits: Limits
  ) {
    self.incarnation = incarnation
    let rankCount = Int(fingerprint.rankCount)
    ledger = StoreLedger(
      incarnation: incarnation, slotCount: slotCount, rankCount: rankCount, limits: limits)
    desk = LocalDesk(
      store: incarnation, fingerprint: fingerprint, slotCount: slotCount, blockBytes: blockBytes,
      limits: limits)
    pools = (0..<rankCount).map { _ in MemoryPool(blockBytes: blockBytes, slotCount: slotCount) }
    writers = pools.map {
      PoolWriter.Pool(
        base: $0.memory.region.base, blockBytes: blockBytes, words: $0.words)
    }
  }

  package var hasCopies: Bool { !copies.isEmpty }

  // MARK: Connections

  /// Somebody connects. Nil: there is no room.
  package func connect(_ link: MemoryLink) -> Bool {
    guard let id = desk.joined() else { return false }
    links[id] = link
    link.joined(self, id)
    return true
  }

  func received(_ message: LocalMessage, from id: ConnectionID, at now: LocalInstant) {
    perform(desk.received(message, from: id, &ledger, at: now), at: now)
  }

  func left(_ id: ConnectionID, at now: LocalInstant) {
    guard links.removeValue(forKey: id) != nil else { return }
    staging[id] = nil
    perform(desk.left(id, &ledger, at: now), at: now)
  }

  private func perform(_ actions: [LocalAction], at now: LocalInstant) {
    for action in actions {
      switch action {
      case .send(let id, let message): links[id]?.deliver(message, nil)
      case .welcomeRank(let id, let rank, let welcome):
        let memory = BlockMemory(
          blockBytes: welcome.blockBytes, blockCount: welcome.stagingSlots)
        staging[id] = memory
        links[id]?.deliver(.welcome(welcome), (pools[rank], memory))
      case .copy(let copy):
        PoolWriter.begin(copy, writers)
        copies.append((copy, copy.sources.map { staging[$0.connection] }))
        if let onCopy { onCopy() } else { finishCopy(at: now) }
      case .want(let wanted): perform(desk.answer(wanted, &ledger, at: now), at: now)
      case .close(let id):
        links[id]?.close()
        left(id, at: now)
      }
    }
  }

  /// Finishes the oldest copy that was begun.
  package func finishCopy(at now: LocalInstant) {
    guard !copies.isEmpty else { return }
    let (copy, memories) = copies.removeFirst()
    let sources = zip(memories, copy.sources).map { memory, source in
      memory.map { UnsafeRawPointer($0.region.pointer(to: Int(source.slot))) }
    }
    // The memory of a connection that ended meanwhile is kept by nobody else.
    let digests = withExtendedLifetime(memories) {
      PoolWriter.finish(copy, from: sources, writers)
    }
    perform(desk.copied(copy, digests: digests, &ledger), at: now)
  }
}

/// One connection to a ``MemoryStore``.
package final class MemoryLink: @unchecked Sendable {
  // @unchecked: as its store.
  private weak var store: MemoryStore?
  private var id: ConnectionID?
  package enum Direction: Sendable { case toStore, toEngine }
  /// How messages travel: at once, unless its user says otherwise. Never one before another.
  package var carry: (Direction, @escaping () -> Void) -> Void = { $1() }
  /// What the store sends, with a rank's pool and staging memory where they come.
  package var onMessage: (LocalMessage, (MemoryStore.MemoryPool, BlockMemory)?) -> Void = { _, _ in
  }
  package var onClose: () -> Void = {}
  private let now: () -> LocalInstant
  package private(set) var isOpen = false

  package init(now: @escaping () -> LocalInstant) { self.now = now }

  func joined(_ store: MemoryStore, _ id: ConnectionID) {
    self.store = store
    self.id = id
    isOpen = true
  }

  /// - Returns: false when the connection has ended.
  package func send(_ message: LocalMessage) -> Bool {
    guard isOpen, store != nil, let id else { return false }
    // Through the codec, as on a socket.
    let bytes = LocalCodec.encode(message)
    carry(.toStore) { [weak self] in
      guard let self, isOpen, let store else { return }
      let sent = bytes.withUnsafeBytes { try? LocalCodec.decode($0) }
      guard let sent else { preconditionFailure("a message that cannot be read: \(message)") }
      store.received(sent, from: id, at: now())
    }
    return true
  }

  func deliver(_ message: LocalMessage, _ memory: (MemoryStore.MemoryPool, BlockMemory)?) {
    carry(.toEngine) { [weak self] in
      guard let self, isOpen else { return }
      onMessage(message, memory)
    }
  }

  /// The store ends it, or is gone.
  func close() {
    guard isOpen else { return }
    isOpen = false
    carry(.toEngine) { [weak self] in self?.onClose() }
  }

  /// The engine ends it, or is gone; the store hears of it.
  package func hangUp() {
    guard isOpen, let id else { return }
    isOpen = false
    let store = store
    carry(.toStore) { [now] in store?.left(id, at: now()) }
  }

  /// The store's process is gone: the kernel closes what it had open.
  package func storeDied() { close() }
}

/// A rank's link to a ``MemoryStore``, for its pump.
package final class MemoryStagingLink: StagingLink, @unchecked Sendable {
  // @unchecked: as its store.
  private let link: MemoryLink
  private let memory: BlockMemory
  private var received: [LocalMessage] = []

  package init(_ link: MemoryLink, _ memory: BlockMemory) {
    self.link = link
    self.memory = memory
    link.onMessage = { [weak self] message, _ in self?.received.append(message) }
  }

  package var slotCount: Int { memory.region.blockCount }
  package func pointer(to slot: UInt32) -> UnsafeMutableRawPointer {
    memory.region.pointer(to: Int(slot))
  }
  package func send(_ message: LocalMessage) -> Bool { link.send(message) }
  package func receive() -> [LocalMessage]? {
    guard link.isOpen else { return nil }
    defer { received = [] }
    return received
  }

  /// The pump lets it go.
  deinit { link.hangUp() }
}

public import KVTransfer
internal import LocalStore
internal import OSThreads
public import RemoteG2Core

/// Makes the sources that a rank is told of readable in its process.
public struct SourceOpener: Sendable {
  private let rank: Int
  private let fingerprint: Fingerprint
  private let stagingSlots: Int
  private let blockBytes: Int

  /// - Parameters:
  ///   - fingerprint: Of the rank's engine; an own store checks it.
  ///   - stagingSlots: Blocks of staging memory to ask an own store for.
  ///   - blockBytes: Of one block on this rank; 0: the own store knows.
  public init(rank: Int, fingerprint: Fingerprint, stagingSlots: Int, blockBytes: Int = 0) {
    self.blockBytes = blockBytes
    self.rank = rank
    self.fingerprint = fingerprint
    self.stagingSlots = stagingSlots
  }

  /// Finds out how to read a source. For an own store this connects, and blocks for at most 100 ms until the
  /// store's welcome is there.
  ///
  /// - Returns: Nil for an own store that is gone, is another incarnation by now, refuses this rank, does not
  ///   answer in time, or cannot be mapped. The leader then has it announced to every rank again.
  public func open(_ source: SourceID, _ address: SourceAddress) -> SourceDescription? {
    switch address {
    case .remote(let pool): return .nixl(pool)
    case .own(let socket, let engine):
      let hello = LocalHello(
        engine: engine, role: .rank(rank), fingerprint: fingerprint, stagingSlots: stagingSlots,
        blockBytes: blockBytes)
      guard
        let own = OwnPool.open(
          socket: socket, store: source.incarnation, hello: hello, now: MonotonicClock.now,
          nap: { OSThread.nap($0) })
      else { return nil }
      let shape = own.mapping.shape
      return .mapped(
        BlockRegion(
          base: own.mapping.base, blockBytes: shape.blockBytes, blockCount: shape.slotCount),
        words: own.mapping.words, link: own.link, owner: own.mapping)
    }
  }
}

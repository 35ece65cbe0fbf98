import LocalStore
import RemoteG2Core

/// A rank's link to its store, with the mistakes that are planted there.
final class BuggyStagingLink: StagingLink, @unchecked Sendable {
  // @unchecked: one simulation, one thread.
  private let inner: MemoryStagingLink
  private let bug: PlantedBug?
  /// Slots that were staged, and are taken for free at once.
  private var early: [UInt32] = []

  init(_ inner: MemoryStagingLink, _ bug: PlantedBug?) {
    self.inner = inner
    self.bug = bug
  }

  var slotCount: Int { inner.slotCount }
  func pointer(to slot: UInt32) -> UnsafeMutableRawPointer { inner.pointer(to: slot) }

  func send(_ message: LocalMessage) -> Bool {
    guard case .staged(var blocks) = message else { return inner.send(message) }
    switch bug {
    case .savedUnderAnotherKey where blocks.count > 1:
      let keys = blocks.map(\.key)
      for index in blocks.indices { blocks[index].key = keys[(index + 1) % keys.count] }
    case .writesAfterStaging: early += blocks.map(\.slot)
    default: break
    }
    return inner.send(.staged(blocks))
  }

  func receive() -> [LocalMessage]? {
    guard let messages = inner.receive() else { return nil }
    guard bug == .writesAfterStaging else { return messages }
    defer { early = [] }
    return [.freed(early)]
  }
}

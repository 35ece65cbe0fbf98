internal import CLinuxShims
internal import Glibc
public import RemoteG2Core
internal import Synchronization

/// Which keys a node has or could fetch, in memory that its engines map: whoever finds a key here asks for it,
/// and whoever does not need not ask.
///
/// A key has two places, and each place counts the keys that are there, once for everybody who has one. A key
/// that nobody has may be found because others have its places: it is asked for in vain. A key that somebody
/// has is always found, but for the moment in which it becomes known. Advice only: it proves nothing.
public struct KnownKeys: @unchecked Sendable {
  // @unchecked: an address and a count; every access is atomic.
  private let places: UnsafeMutablePointer<Atomic<UInt8>>
  public let count: Int

  /// - Parameters:
  ///   - base: `count` bytes, zero at first.
  ///   - count: A power of two.
  package init(_ base: UnsafeMutableRawPointer, count: Int) {
    precondition(count > 0 && count & (count - 1) == 0, "\(count) places are no power of two")
    places = base.assumingMemoryBound(to: Atomic<UInt8>.self)
    self.count = count
  }

  /// Keys are digests: any of their bits are as good as others.
  private func pair(of key: BlockKey) -> (Int, Int) {
    let mask = UInt64(count - 1)
    return (Int(key.low & mask), Int(key.high & mask))
  }

  /// Whether somebody may have it.
  public func mayHave(_ key: BlockKey) -> Bool {
    let (first, second) = pair(of: key)
    return places[first].load(ordering: .relaxed) != 0
      && places[second].load(ordering: .relaxed) != 0
  }

  /// Somebody has a key, or has it no more. Only one thread at a time may say so.
  package func note(_ change: FeedChange) {
    let (first, second) = pair(of: change.key)
    step(first, isUp: change.isSealed)
    step(second, isUp: change.isSealed)
  }

  private func step(_ place: Int, isUp: Bool) {
    let value = places[place].load(ordering: .relaxed)
    // A place that is full has lost count, and stays.
    guard value < .max else { return }
    precondition(isUp || value > 0, "a key went that had never come")
    places[place].store(isUp ? value + 1 : value - 1, ordering: .relaxed)
  }

  /// Whether every place counts as many keys as that of another table. For audits.
  package func isSame(as other: KnownKeys) -> Bool {
    count == other.count
      && (0..<count).allSatisfy {
        places[$0].load(ordering: .relaxed) == other.places[$0].load(ordering: .relaxed)
      }
  }
}

/// The table as its node has it: an anonymous memory file that the node alone can write.
package final class KnownKeysMemory: @unchecked Sendable {
  // @unchecked: addresses and numbers; the table's accesses are atomic.
  package let table: KnownKeys
  /// Can be mapped for reading only. Given to engines.
  package let readOnlyDescriptor: Int32
  private let descriptor: Int32
  private let mapping: UnsafeMutableRawPointer

  package init(bytes: Int) throws(PoolError) {
    var readOnly: Int32 = -1
    descriptor = clinux_memfd("remote-g2-known", bytes, &readOnly)
    guard descriptor >= 0 else {
      throw .memory(bytes: bytes, reason: String(cString: strerror(-descriptor)))
    }
    guard let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else {
      let reason = String(cString: strerror(errno))
      close(descriptor)
      close(readOnly)
      throw .memory(bytes: bytes, reason: reason)
    }
    self.mapping = mapping
    readOnlyDescriptor = readOnly
    table = KnownKeys(mapping, count: bytes)
  }

  deinit {
    munmap(mapping, table.count)
    close(descriptor)
    close(readOnlyDescriptor)
  }
}

/// The table as an engine has it: mapped for reading.
package final class KnownKeysMapping: @unchecked Sendable {
  // @unchecked: as ``KnownKeysMemory``.
  package let table: KnownKeys
  private let mapping: UnsafeMutableRawPointer
  /// What is larger is no table.
  private static let bytesMax = 1 << 32

  /// - Parameter descriptor: Stays the caller's to close.
  package init?(_ descriptor: Int32) {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { return nil }
    let bytes = Int(status.st_size)
    guard bytes > 0, bytes <= Self.bytesMax, bytes & (bytes - 1) == 0,
      let mapping = mmap(nil, bytes, PROT_READ, MAP_SHARED, descriptor, 0), mapping != MAP_FAILED
    else { return nil }
    self.mapping = mapping
    table = KnownKeys(mapping, count: bytes)
  }

  deinit { munmap(mapping, table.count) }
}

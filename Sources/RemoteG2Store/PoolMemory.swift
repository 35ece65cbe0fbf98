internal import CLinuxShims
internal import Glibc
package import RemoteG2Core

/// Why a pool cannot be made or mapped.
package enum PoolError: Error, Equatable, Sendable, CustomStringConvertible {
  case size(slots: Int, blockBytes: Int)
  case memory(bytes: Int, reason: String)
  case cannotMap(reason: String)
  /// What was mapped is not this store's pool.
  case notThePool(String)

  package var description: String {
    switch self {
    case .size(let slots, let bytes):
      "a pool of \(slots) slots of \(bytes) bytes is not possible: lower --slots"
    case .memory(let bytes, let reason):
      "no memory for a pool of \(bytes >> 20) MiB: \(reason); lower --slots"
    case .cannotMap(let reason): "the store's pool cannot be mapped: \(reason)"
    case .notThePool(let what): "what was mapped is not the store's pool: \(what)"
    }
  }
}

/// One rank's pool: an anonymous memory file that its store registers with NIXL and its engine maps.
///
/// The first page says whose it is. Nothing is left behind when the last process that has it open
/// or mapped is gone, however it went. The mapping lives as long as the object.
package final class PoolMemory: @unchecked Sendable {
  // @unchecked: an address and its size; who may touch which slot is the ledger's business.
  package static let headerBytes = 4096
  private static let magic: UInt64 = 0x3167_6f6f_5032_4752

  package let slotCount: Int
  package let blockBytes: Int
  /// The memory file, where this process made it; -1 where it only maps it.
  package let descriptor: Int32
  private let mapping: UnsafeMutableRawPointer

  /// The first byte of slot 0.
  package var base: UnsafeMutableRawPointer { mapping + Self.headerBytes }
  private var byteCount: Int { Self.headerBytes + slotCount * blockBytes }

  private static func checkSize(_ slotCount: Int, _ blockBytes: Int) throws(PoolError) -> Int {
    let (product, overflow) = slotCount.multipliedReportingOverflow(by: blockBytes)
    guard slotCount > 0, slotCount < 1 << 24, blockBytes > 0, !overflow, product < 1 << 42 else {
      throw .size(slots: slotCount, blockBytes: blockBytes)
    }
    return headerBytes + product
  }

  /// Makes a pool for this process's store.
  package init(
    slotCount: Int, blockBytes: Int, owner: Incarnation
  ) throws(PoolError) {
    let bytes = try Self.checkSize(slotCount, blockBytes)
    let descriptor = clinux_memfd("remote-g2-pool", bytes)
    guard descriptor >= 0 else {
      throw .memory(bytes: bytes, reason: String(cString: strerror(-descriptor)))
    }
    guard let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else {
      let reason = String(cString: strerror(errno))
      close(descriptor)
      throw .memory(bytes: bytes, reason: reason)
    }
    mapping.storeBytes(of: Self.magic, as: UInt64.self)
    mapping.storeBytes(of: owner.high, toByteOffset: 8, as: UInt64.self)
    mapping.storeBytes(of: owner.low, toByteOffset: 16, as: UInt64.self)
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.descriptor = descriptor
    self.mapping = mapping
  }

  /// Maps the pool that process `process` has open as `descriptor`, and checks that it is `owner`'s.
  package init(
    of process: Int32, descriptor: Int32, slotCount: Int, blockBytes: Int, owner: Incarnation
  ) throws(PoolError) {
    let bytes = try Self.checkSize(slotCount, blockBytes)
    let opened = open("/proc/\(process)/fd/\(descriptor)", O_RDWR | O_CLOEXEC)
    guard opened >= 0 else { throw .cannotMap(reason: String(cString: strerror(errno))) }
    defer { close(opened) }
    var status = stat()
    guard fstat(opened, &status) == 0, Int(status.st_size) == bytes else {
      throw .notThePool("it has \(status.st_size) bytes, not \(bytes)")
    }
    guard let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0),
      mapping != MAP_FAILED
    else { throw .cannotMap(reason: String(cString: strerror(errno))) }
    let found = Incarnation(
      high: mapping.load(fromByteOffset: 8, as: UInt64.self),
      low: mapping.load(fromByteOffset: 16, as: UInt64.self))
    guard mapping.load(as: UInt64.self) == Self.magic, found == owner else {
      munmap(mapping, bytes)
      throw .notThePool("it names \(found)")
    }
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    self.descriptor = -1
    self.mapping = mapping
  }

  deinit {
    munmap(mapping, byteCount)
    if descriptor >= 0 { close(descriptor) }
  }
}

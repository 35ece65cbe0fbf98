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
  case cannotListen(path: String, reason: String)

  package var description: String {
    switch self {
    case .size(let slots, let bytes):
      "a pool of \(slots) slots of \(bytes) bytes is not possible: lower --memory, or --slots of a worker"
    case .memory(let bytes, let reason):
      "no memory for a pool of \(bytes >> 20) MiB: \(reason); lower --memory, or --slots of a worker"
    case .cannotMap(let reason): "the store's pool cannot be mapped: \(reason)"
    case .notThePool(let what): "what was mapped is not the store's pool: \(what)"
    case .cannotListen(let path, let reason): "cannot listen on \(path): \(reason)"
    }
  }
}

/// Where things are in a pool's memory file: a header page, the slots' words, the slots.
package struct PoolShape: Equatable, Sendable {
  static let magic: UInt64 = 0x3267_6f6f_5032_4752
  static let page = 4096
  package let slotCount: Int
  package let blockBytes: Int

  package init(slotCount: Int, blockBytes: Int) throws(PoolError) {
    let (product, overflow) = slotCount.multipliedReportingOverflow(by: blockBytes)
    guard slotCount > 0, slotCount < 1 << 24, blockBytes > 0, !overflow, product < 1 << 42 else {
      throw .size(slots: slotCount, blockBytes: blockBytes)
    }
    self.slotCount = slotCount
    self.blockBytes = blockBytes
  }

  var wordsOffset: Int { Self.page }
  /// Of the first slot.
  package var slotsOffset: Int {
    wordsOffset + (slotCount * 8 + Self.page - 1) / Self.page * Self.page
  }
  package var byteCount: Int { slotsOffset + slotCount * blockBytes }
}

/// One rank's pool as its store has it: an anonymous memory file that the store alone can write, and that
/// peers read over NIXL and engines through mappings of their own.
///
/// Nothing is left behind when the last process that has it open or mapped is gone, however it went.
package final class PoolMemory: @unchecked Sendable {
  // @unchecked: addresses and sizes; who may touch which slot is the ledger's business.
  package let shape: PoolShape
  package let words: GenerationWords
  /// What its header names.
  package let owner: Incarnation
  /// Drawn when the file was made; other than its owner, it stays.
  package let files: Incarnation
  /// Can be mapped for reading only. Given to engines.
  package let readOnlyDescriptor: Int32
  /// Can be mapped for writing. Given to the node's keeper.
  package let descriptor: Int32
  private let mapping: UnsafeMutableRawPointer

  package var slotCount: Int { shape.slotCount }
  package var blockBytes: Int { shape.blockBytes }
  /// The first byte of slot 0.
  package var base: UnsafeMutableRawPointer { mapping + shape.slotsOffset }
  package func pointer(to slot: SlotIndex) -> UnsafeMutableRawPointer {
    precondition(slot.index >= 0 && slot.index < slotCount, "\(slot) of \(slotCount)")
    return base + slot.index * blockBytes
  }

  /// Makes a pool for this process's store.
  package init(slotCount: Int, blockBytes: Int, owner: Incarnation) throws(PoolError) {
    shape = try PoolShape(slotCount: slotCount, blockBytes: blockBytes)
    self.owner = owner
    files = owner
    var readOnly: Int32 = -1
    let descriptor = clinux_memfd("remote-g2-pool", shape.byteCount, &readOnly)
    guard descriptor >= 0 else {
      throw .memory(bytes: shape.byteCount, reason: String(cString: strerror(-descriptor)))
    }
    guard
      let mapping = mmap(
        nil, shape.byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else {
      let reason = String(cString: strerror(errno))
      close(descriptor)
      close(readOnly)
      throw .memory(bytes: shape.byteCount, reason: reason)
    }
    mapping.storeBytes(of: PoolShape.magic, as: UInt64.self)
    mapping.storeBytes(of: owner.high, toByteOffset: 8, as: UInt64.self)
    mapping.storeBytes(of: owner.low, toByteOffset: 16, as: UInt64.self)
    mapping.storeBytes(of: files.high, toByteOffset: 24, as: UInt64.self)
    mapping.storeBytes(of: files.low, toByteOffset: 32, as: UInt64.self)
    words = GenerationWords(mapping + shape.wordsOffset, count: slotCount)
    self.descriptor = descriptor
    readOnlyDescriptor = readOnly
    self.mapping = mapping
  }

  /// Takes over a pool that another process made, which has ended.
  ///
  /// - Parameters:
  ///   - descriptor, readOnlyDescriptor: Its files. They are this pool's to close from now on.
  ///   - files: What it was called when it was made.
  ///   - owner: What it is called from now on.
  package init(
    adopting descriptor: Int32, readOnlyDescriptor: Int32, slotCount: Int, blockBytes: Int,
    files: Incarnation, owner: Incarnation
  ) throws(PoolError) {
    func closeBoth() {
      close(descriptor)
      close(readOnlyDescriptor)
    }
    do throws(PoolError) {
      shape = try PoolShape(slotCount: slotCount, blockBytes: blockBytes)
      mapping = try Self.map(descriptor, shape.byteCount)
    } catch {
      closeBoth()
      throw error
    }
    let made = Incarnation(
      high: mapping.load(fromByteOffset: 24, as: UInt64.self),
      low: mapping.load(fromByteOffset: 32, as: UInt64.self))
    guard mapping.load(as: UInt64.self) == PoolShape.magic, made == files else {
      munmap(mapping, shape.byteCount)
      closeBoth()
      throw .notThePool("it was made as \(made)")
    }
    self.owner = owner
    self.files = files
    self.descriptor = descriptor
    self.readOnlyDescriptor = readOnlyDescriptor
    mapping.storeBytes(of: owner.high, toByteOffset: 8, as: UInt64.self)
    mapping.storeBytes(of: owner.low, toByteOffset: 16, as: UInt64.self)
    words = GenerationWords(mapping + shape.wordsOffset, count: slotCount)
  }

  private static func map(
    _ descriptor: Int32, _ bytes: Int
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    var status = stat()
    guard fstat(descriptor, &status) == 0, Int(status.st_size) == bytes else {
      throw .notThePool("it has \(status.st_size) bytes, not \(bytes)")
    }
    guard let mapping = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else { throw .cannotMap(reason: String(cString: strerror(errno))) }
    return mapping
  }

  /// Has the system find all of its pages, which changes nothing that is in them: who writes a slot for the
  /// first time need not wait for that. Takes a while; any thread may do it, beside readers and writers.
  ///
  /// - Parameter isOver: Asked again and again; true: it is not needed any more.
  package func findPages(until isOver: () -> Bool) {
    Memory.findPages(mapping, shape.byteCount, Memory.populateWrite, until: isOver)
  }

  deinit {
    munmap(mapping, shape.byteCount)
    close(descriptor)
    close(readOnlyDescriptor)
  }
}

private enum Memory {
  /// So little that whoever needs the process's memory map meanwhile does not wait for long.
  private static let piece = 1 << 20
  /// MADV_POPULATE_READ and _WRITE, of Linux 5.14; where they are unknown pages are found when they are used.
  static let populateRead: Int32 = 22
  static let populateWrite: Int32 = 23

  static func findPages(
    _ base: UnsafeMutableRawPointer, _ count: Int, _ advice: Int32, until isOver: () -> Bool
  ) {
    for first in stride(from: 0, to: count, by: piece) where !isOver() {
      guard madvise(base + first, min(piece, count - first), advice) == 0 else { return }
    }
  }
}

/// One rank's pool as an engine has it: mapped for reading.
package final class PoolMapping: @unchecked Sendable {
  // @unchecked: an address and its size; what is behind it is checked by the slots' words.
  package let shape: PoolShape
  package let words: GenerationWords
  private let mapping: UnsafeMutableRawPointer

  package var base: UnsafeMutableRawPointer { mapping + shape.slotsOffset }

  /// Maps what a store sent, and checks that it is `owner`'s pool.
  ///
  /// - Parameter descriptor: Stays the caller's to close.
  package init(
    _ descriptor: Int32, slotCount: Int, blockBytes: Int, owner: Incarnation
  ) throws(PoolError) {
    shape = try PoolShape(slotCount: slotCount, blockBytes: blockBytes)
    var status = stat()
    guard fstat(descriptor, &status) == 0, Int(status.st_size) == shape.byteCount else {
      throw .notThePool("it has \(status.st_size) bytes, not \(shape.byteCount)")
    }
    guard let mapping = mmap(nil, shape.byteCount, PROT_READ, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else { throw .cannotMap(reason: String(cString: strerror(errno))) }
    let found = Incarnation(
      high: mapping.load(fromByteOffset: 8, as: UInt64.self),
      low: mapping.load(fromByteOffset: 16, as: UInt64.self))
    guard mapping.load(as: UInt64.self) == PoolShape.magic, found == owner else {
      munmap(mapping, shape.byteCount)
      throw .notThePool("it names \(found)")
    }
    words = GenerationWords(mapping + shape.wordsOffset, count: slotCount)
    self.mapping = mapping
  }

  deinit { munmap(mapping, shape.byteCount) }
}

/// Staging memory of one rank's connection, mapped by the rank that writes it and by the store that
/// copies from it. It ends with the connection.
package final class StagingMemory: @unchecked Sendable {
  // @unchecked: an address and its size; who may touch which slot is the protocol's business.
  package let slotCount: Int
  package let blockBytes: Int
  package let base: UnsafeMutableRawPointer
  /// Of the store, which made it; -1 in the engine.
  package let descriptor: Int32

  package func pointer(to slot: UInt32) -> UnsafeMutableRawPointer {
    precondition(Int(slot) < slotCount, "staging slot \(slot) of \(slotCount)")
    return base + Int(slot) * blockBytes
  }

  /// Makes it, for the store.
  package init(slotCount: Int, blockBytes: Int) throws(PoolError) {
    let bytes = try PoolShape(slotCount: slotCount, blockBytes: blockBytes).byteCount
    let descriptor = clinux_memfd("remote-g2-staging", slotCount * blockBytes, nil)
    guard descriptor >= 0 else {
      throw .memory(bytes: bytes, reason: String(cString: strerror(-descriptor)))
    }
    self.descriptor = descriptor
    self.slotCount = slotCount
    self.blockBytes = blockBytes
    do throws(PoolError) {
      base = try Self.map(descriptor, slotCount * blockBytes, PROT_READ)
    } catch {
      close(descriptor)
      throw error
    }
  }

  /// Maps what the store sent, for the rank.
  ///
  /// - Parameter descriptor: Stays the caller's to close.
  package init(_ descriptor: Int32, slotCount: Int, blockBytes: Int) throws(PoolError) {
    _ = try PoolShape(slotCount: slotCount, blockBytes: blockBytes)
    var status = stat()
    guard fstat(descriptor, &status) == 0, Int(status.st_size) == slotCount * blockBytes else {
      throw .notThePool("staging memory of \(status.st_size) bytes")
    }
    base = try Self.map(descriptor, slotCount * blockBytes, PROT_READ | PROT_WRITE)
    self.descriptor = -1
    self.slotCount = slotCount
    self.blockBytes = blockBytes
  }

  /// As ``PoolMemory/findPages(until:)``, for the rank that is going to write them.
  package func findPages(until isOver: () -> Bool) {
    Memory.findPages(base, slotCount * blockBytes, Memory.populateRead, until: isOver)
  }

  private static func map(
    _ descriptor: Int32, _ bytes: Int, _ protection: Int32
  ) throws(PoolError) -> UnsafeMutableRawPointer {
    guard let mapping = mmap(nil, bytes, protection, MAP_SHARED, descriptor, 0),
      mapping != MAP_FAILED
    else { throw .cannotMap(reason: String(cString: strerror(errno))) }
    return mapping
  }

  deinit {
    munmap(base, slotCount * blockBytes)
    if descriptor >= 0 { close(descriptor) }
  }
}

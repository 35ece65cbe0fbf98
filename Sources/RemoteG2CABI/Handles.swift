internal import Glibc
internal import RemoteG2Core
internal import RemoteG2Library

/// Bytes that a caller in C may read until they are lent anew.
final class LentBytes {
  private(set) var memory = UnsafeMutablePointer<UInt8>.allocate(capacity: 1)

  init() { memory.initialize(to: 0) }
  deinit { memory.deallocate() }

  func lend(_ bytes: [UInt8]) -> UnsafePointer<UInt8> {
    memory.deallocate()
    memory = .allocate(capacity: max(1, bytes.count))
    memory.initialize(from: bytes, count: bytes.count)
    return UnsafePointer(memory)
  }
}

final class SchedulerHandle {
  let engine: StagedEngine
  let rankCount: Int
  let process = getpid()
  let lent = LentBytes()

  init(_ engine: StagedEngine, rankCount: Int) {
    self.engine = engine
    self.rankCount = rankCount
  }
}

final class RankHandle {
  let rank: StagedRank
  let process = getpid()
  let lent = LentBytes()
  var finished: [RequestID] = []
  var errors: [BlockIndex] = []

  init(_ rank: StagedRank) { self.rank = rank }
}

/// Why a call cannot be carried out.
enum CallFailure: Error {
  case invalid(String)
  case forked

  var reason: String {
    switch self {
    case .invalid(let reason): reason
    case .forked: "the handle was opened by another process, before a fork: open one here"
    }
  }
}

/// What the last call of this thread that failed said.
enum LastFailure {
  private static let key: pthread_key_t = {
    var key = pthread_key_t()
    pthread_key_create(&key) { Unmanaged<LentBytes>.fromOpaque($0!).release() }
    return key
  }()

  private static var lent: LentBytes {
    if let found = pthread_getspecific(key) {
      return Unmanaged<LentBytes>.fromOpaque(found).takeUnretainedValue()
    }
    let made = LentBytes()
    pthread_setspecific(key, Unmanaged.passRetained(made).toOpaque())
    return made
  }

  static func note(_ failure: CallFailure) { _ = lent.lend(Array(failure.reason.utf8) + [0]) }
  static var text: UnsafePointer<CChar> {
    UnsafeRawPointer(lent.memory).assumingMemoryBound(to: CChar.self)
  }
}

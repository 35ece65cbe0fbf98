internal import CMPI
internal import Glibc
public import OSThreads
internal import RemoteG2Core

/// Why a rank group of processes cannot start.
public enum MPIError: Error, Equatable, Sendable, CustomStringConvertible {
  case library(String)
  case initialisation(code: Int32)
  case size(expected: Int, actual: Int)

  public var description: String {
    switch self {
    case .library(let why):
      "tensor parallelism over processes needs Open MPI 4 (scripts/setup installs openmpi-bin): \(why)"
    case .initialisation(let code):
      "Open MPI could not start (error \(code)): start the ranks with mpirun.openmpi"
    case .size(let expected, let actual):
      "the group was to have \(expected) ranks and mpirun started \(actual): start it with -n \(expected)"
    }
  }
}

/// This process's membership of the rank group that mpirun started.
///
/// One thread at a time uses it: who starts and ends the process, and between them the step thread,
/// through its channel and reducer. A rank that waits sleeps: for the
/// next plan until the leader rings, for everything else in short naps. How long a wait has lasted is
/// told to `pulse`, by which a watchdog ends a process whose group is broken.
public final class MPIGroup {
  public let rank: Int
  public let rankCount: Int
  public let pulse: GroupPulse
  /// Rung by the other ranks: the leader's by pumps with news, the others' by the leader's plans.
  public let bell: RankBell

  private static let yieldTurns = 100
  private static let napMin: Duration = .microseconds(20)
  private static let napMax: Duration = .microseconds(500)
  private static let longNapMax: Duration = .milliseconds(5)
  /// When a ring is expected to end the wait, and something may have swallowed it.
  private static let rungNapMax: Duration = .milliseconds(20)

  /// - Parameters:
  ///   - expected: How many ranks there must be.
  ///   - library: A path of libmpi, or nil for the system's.
  ///   - pulse: Already watched, so that a rank which never comes is noticed.
  public init(
    expecting expected: Int? = nil, library: String? = nil, pulse: GroupPulse = GroupPulse()
  ) throws(MPIError) {
    if let why = cmpi_load(library) { throw .library(String(cString: why)) }
    var (rank, count): (Int32, Int32) = (0, 0)
    pulse.waits(since: MonotonicClock.now())
    let error = cmpi_init(&rank, &count)
    pulse.goesOn()
    guard error == 0 else { throw .initialisation(code: error) }
    if let expected, Int(count) != expected {
      throw .size(expected: expected, actual: Int(count))
    }
    self.rank = Int(rank)
    rankCount = Int(count)
    self.pulse = pulse
    // The leader draws the name of the group's bells.
    var group = UInt64.random(in: .min ... .max)
    withUnsafeMutableBytes(of: &group) { bytes in
      Self.complete(pulse, hearing: nil) {
        cmpi_ibcast(bytes.baseAddress, Int32(bytes.count), &$0)
      }
    }
    bell = RankBell(group: group, rank: Int(rank))
    // No rank rings before all of them can hear.
    var all = [UInt8](repeating: 0, count: Int(count) + 1)
    all.withUnsafeMutableBytes { bytes in
      Self.complete(pulse, hearing: nil) {
        cmpi_iallgather(bytes.baseAddress! + Int(count), 1, bytes.baseAddress, &$0)
      }
    }
  }

  /// What this machine's library calls itself. Joins nothing.
  public static func find(library: String? = nil) throws(MPIError) -> String {
    if let why = cmpi_load(library) { throw .library(String(cString: why)) }
    return String(cString: cmpi_version())
  }

  /// Leaves the group, together with every other rank. MPI is over for this process.
  public func leave() {
    // It waits for the others, and is watched like every wait.
    pulse.waits(since: MonotonicClock.now())
    _ = cmpi_finalize()
    pulse.goesOn()
  }

  // MARK: For the channel and the reducer

  func ibcast(_ buffer: UnsafeMutableRawBufferPointer, hearing isHearing: Bool) {
    Self.complete(pulse, hearing: isHearing ? bell : nil) {
      cmpi_ibcast(buffer.baseAddress, Int32(buffer.count), &$0)
    }
  }

  func gather(_ part: UnsafeRawBufferPointer, into all: UnsafeMutableRawPointer?) {
    Self.complete(pulse, hearing: nil) {
      cmpi_igather(part.baseAddress, Int32(part.count), all, &$0)
    }
  }

  func gather(
    _ part: UnsafeRawBufferPointer, into all: UnsafeMutableRawPointer?, counts: [Int32],
    places: [Int32]
  ) {
    counts.withUnsafeBufferPointer { counts in
      places.withUnsafeBufferPointer { places in
        Self.complete(pulse, hearing: nil) {
          cmpi_igatherv(
            part.baseAddress, Int32(part.count), all, counts.baseAddress, places.baseAddress, &$0)
        }
      }
    }
  }

  func allgather(_ part: UnsafeRawBufferPointer, into all: UnsafeMutableRawPointer) {
    Self.complete(pulse, hearing: nil) {
      cmpi_iallgather(part.baseAddress, Int32(part.count), all, &$0)
    }
  }

  /// Starts a collective and returns when it is complete: its buffers must live so long.
  ///
  /// - Parameter bell: Rung when the wait is expected to end.
  private static func complete(
    _ pulse: GroupPulse, hearing bell: RankBell?, _ start: (inout cmpi_request?) -> Int32
  ) {
    // Watched from its start: what the library does within a call may wait for another rank too.
    let began = MonotonicClock.now()
    pulse.waits(since: began)
    defer { pulse.goesOn() }
    var request: cmpi_request?
    check(start(&request), "collective")
    for _ in 0..<yieldTurns {
      if isDone(&request) { return }
      sched_yield()
    }
    var nap = napMin
    while !isDone(&request) {
      if let bell {
        // A ring may be for an earlier plan, so it is no more than a reason to look.
        if bell.wait(until: MonotonicClock.now() + nap) { nap = napMin }
        nap = min(nap * 2, rungNapMax)
      } else {
        OSThread.nap(nap)
        // A long wait becomes longer by an eighth at most, and costs next to nothing.
        let waited = MonotonicClock.now() - began
        nap = min(nap * 2, max(napMax, min(waited / 8, longNapMax)))
      }
    }
  }

  private static func isDone(_ request: inout cmpi_request?) -> Bool {
    var done: Int32 = 0
    check(cmpi_test(&request, &done), "test")
    return done != 0
  }

  private static func check(_ error: Int32, _ what: String) {
    precondition(error == 0, "MPI \(what) failed: error \(error)")
  }
}

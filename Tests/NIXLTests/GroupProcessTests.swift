import Collectives
import Foundation
import OSThreads
import Processes
import RankGroups
import RemoteG2Core
import RemoteG2Runtime
import Testing

private let hasMPI = FileManager.default.fileExists(atPath: GroupLauncher.program)

/// The group's cells over real MPI, a covering sample of what runs in one process for all of them.
@Suite(.serialized, .enabled(if: hasMPI, "Open MPI is not installed: scripts/setup installs it"))
struct `A rank group of processes` {
  static let host = URL(fileURLWithPath: "/proc/self/exe".resolved).deletingLastPathComponent()
    .appendingPathComponent("remote-g2-testhost").path
  static let environment = ["SWIFT_BACKTRACE": "enable=no"]

  static func run(
    _ started: Int, _ arguments: [String]
  ) throws -> (status: Int32, output: String, errors: String) {
    try ChildProcess.run(
      host, ["start", "\(started)", "group"] + arguments, environment: environment,
      timeout: .seconds(120))
  }

  /// The numbers that ranks said of themselves in lines of this kind.
  static func numbers(_ word: String, in output: String) -> [Int64] {
    output.split(separator: "\n").filter { $0.contains(" \(word) ") }
      .compactMap { $0.split(separator: " ").last.flatMap { Int64($0) } }
  }

  /// Waits until every rank that told its number is gone.
  static func expectGone(_ output: String, ranks: Int) {
    let pids = numbers("is", in: output)
    #expect(pids.count == ranks, "\(output)")
    for pid in pids {
      let isGone = ChildProcess(running: Int32(pid)).map { $0.hasEnded(waiting: 5_000) } ?? true
      #expect(isGone, "process \(pid) is left")
    }
  }

  /// Folders of shared memory that groups have left.
  static func folders() -> [String] {
    ProcFile.names(in: "/dev/shm").filter { $0.hasPrefix("remote-g2-group-") }
  }

  @Test(
    arguments: [
      (2, "failsAtPost", [1]), (3, "none", []), (3, "failsMidway", [0]), (3, "hangs", [1, 2]),
      (3, "isCorrupt", [2]), (4, "isSlow", [0, 1, 2, 3]), (4, "failsMidway", [1, 3]),
      (3, "losesItsSource", [0, 2]),
    ] as [(Int, String, [Int])])
  func `any ranks may fail, and all settle on the same value`(
    ranks: Int, kind: String, failing: [Int]
  ) throws {
    let (status, output, errors) = try Self.run(
      ranks, ["\(ranks)", kind, failing.map(String.init).joined(separator: ",")])
    #expect(status == 0, "\(output) \(errors)")
    let entries = output.split(separator: "\n").filter { $0.contains("entered") }
      .map { $0.split(separator: " ").suffix(3) }
    #expect(entries.count == ranks, "\(output)")
    #expect(Set(entries).count == 1, "a collective was entered by some ranks only: \(output)")
  }

  @Test(
    arguments: [
      // By the shipped silence: the bound is on the whole, from the stop to the last rank's end.
      (3, "stalls", "1", []), (3, "stalls", "0", ["2"]), (2, "stallsLeaving", "1", ["2"]),
    ] as [(Int, String, String, [String])])
  func `a rank that stalls ends its group within ten seconds, with a message, and nobody is left`(
    ranks: Int, end: String, rank: String, silence: [String]
  ) throws {
    let (status, output, errors) = try Self.run(ranks, ["\(ranks)", end, rank] + silence)
    #expect(status != 0)
    #expect(errors.contains("no word from its group"), "\(errors)")
    Self.expectGone(output, ranks: ranks)
    let stopped = try #require(Self.numbers("ends at", in: output).first, "it did not stop")
    #expect(MonotonicClock.now() - LocalInstant(nanoseconds: stopped) <= .seconds(10))
  }

  @Test(arguments: [(2, "1"), (3, "0"), (4, "2")])
  func `a rank that is killed while others are in a collective ends its group, and nobody is left`(
    ranks: Int, rank: String
  ) throws {
    let (status, output, errors) = try Self.run(ranks, ["\(ranks)", "dies", rank])
    #expect(status != 0)
    #expect(errors.contains("signal 9"), "\(errors)")
    Self.expectGone(output, ranks: ranks)
    let died = try #require(Self.numbers("ends at", in: output).first, "it did not die")
    #expect(MonotonicClock.now() - LocalInstant(nanoseconds: died) <= .seconds(10))
  }

  @Test(.timeLimit(.minutes(2)))
  func `a killed mpirun takes its ranks along, and the next group takes its memory away`()
    throws
  {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    defer { close(ends[0]) }
    let mpirun = try ChildProcess(
      Self.host, ["start", "3", "group", "3", "stalls", "2", "60"], environment: Self.environment,
      output: ends[1])
    close(ends[1])
    let others = Set(Self.folders().filter { !$0.hasSuffix("-\(mpirun.pid)") })
    var reader = LineReader(ends[0], bytesMax: 1 << 16)
    var output = ""
    // Until one rank has stopped: the others wait for it.
    while !output.contains("ends at"), case .text(let line)? = reader.next() {
      output += String(decoding: line, as: UTF8.self) + "\n"
    }
    let ranks = Self.numbers("is", in: output).compactMap { ChildProcess(running: Int32($0)) }
    defer { for rank in ranks { rank.signal(SIGKILL) } }
    try #require(ranks.count == 3, "\(output)")
    let name = try #require(Self.folders().first { $0.hasSuffix("-\(mpirun.pid)") })
    let segments = ProcFile.names(in: "/dev/shm/\(name)")
    #expect(segments.count == 3, "\(segments)")
    mpirun.signal(SIGKILL)
    #expect(mpirun.hasEnded(waiting: 5_000))
    #expect(Self.folders().contains(name))
    for rank in ranks {
      // A stopped process cannot hear that mpirun is gone.
      rank.signal(SIGCONT)
      #expect(rank.hasEnded(waiting: 5_000), "rank \(rank.pid) is left")
    }
    // It could not take its memory away; the next can, and leaves none of its own.
    #expect(try Self.run(2, ["2", "none", ""]).status == 0)
    #expect(Set(Self.folders()).isSubset(of: others))
  }

  @Test func `only a folder of this user's own is taken away, and no link is followed`() throws {
    let root = FileManager.default.temporaryDirectory.path + "/rg2-shm-\(getpid())"
    let kept = root + "/kept"
    try FileManager.default.createDirectory(atPath: kept, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: root) }
    try Data([1]).write(to: URL(fileURLWithPath: kept + "/file"))
    // Numbers that no process has, and one that always runs.
    let (dead, link, alive) = (
      GroupMemory.prefix + "2147483600", GroupMemory.prefix + "2147483601",
      GroupMemory.prefix + "1"
    )
    for name in [dead, alive] {
      try FileManager.default.createDirectory(
        atPath: "\(root)/\(name)", withIntermediateDirectories: false)
      try Data([1]).write(to: URL(fileURLWithPath: "\(root)/\(name)/segment"))
    }
    try FileManager.default.createSymbolicLink(
      atPath: "\(root)/\(link)", withDestinationPath: kept)
    try FileManager.default.createSymbolicLink(
      atPath: "\(root)/\(dead)/link", withDestinationPath: kept + "/file")
    GroupMemory.sweep(root)
    #expect(Set(ProcFile.names(in: root)) == ["kept", link, alive])
    #expect(ProcFile.names(in: kept) == ["file"])
    #expect(ProcFile.names(in: "\(root)/\(alive)") == ["segment"])
  }

  @Test(arguments: [["none", ""], ["dies", "1"], ["stalls", "1", "2"]])
  func `an output that nobody reads keeps no group from ending`(end: [String]) throws {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    defer { for end in ends { close(end) } }
    try #require(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0)
    let filling = [UInt8](repeating: 0, count: 1 << 20)
    #expect(write(ends[1], filling, filling.count) < filling.count, "the pipe is not full")
    try #require(fcntl(ends[1], F_SETFL, 0) == 0)
    let mpirun = try ChildProcess(
      Self.host, ["start", "3", "group", "3"] + end, environment: Self.environment,
      output: ends[1])
    defer { mpirun.signal(SIGKILL) }
    #expect(mpirun.hasEnded(waiting: 15_000))
    #expect(mpirun.exitStatus.map { ($0 == 0) == (end[0] == "none") } == true)
    #expect(fcntl(ends[1], F_GETFL) & O_NONBLOCK == 0, "whoever shares the pipe finds it changed")
  }

  @Test func `a group of another size is refused, and says how to start it`() throws {
    let (status, output, _) = try Self.run(2, ["3", "none", ""])
    #expect(status != 0)
    #expect(output.contains("start it with -n 3"), "\(output)")
  }
}

@Suite struct `Where Open MPI is missing` {
  @Test func `a group of processes says what to install`() {
    let error = #expect(throws: MPIError.self) {
      _ = try MPIGroup(library: "/nonexistent/libmpi.so")
    }
    #expect(error?.description.contains("openmpi-bin") == true)
  }
}

import Foundation
import KVTransfer
import KVTransferTesting
import LocalStore
import NIXL
import NIXLTransfer
import OSThreads
import PoolAgents
import Processes
import RemoteG2Core
import RemoteG2Runtime

/// Runs what touches NIXL in a process of its own: one that used UCX cannot exit normally, so the
/// test runner itself must never load it. Prints what failed; exits 0 when nothing did.
@main
enum TestHost {
  static let blockBytes = 256 << 10
  static let slotCount = 64

  static func main() throws {
    setenv("UCX_TLS", "tcp", 0)
    setenv("UCX_NET_DEVICES", "lo", 0)
    setenv("UCX_LOG_LEVEL", "fatal", 0)
    signal(SIGPIPE, SIG_IGN)
    // A rank group's transfers are in memory: it needs MPI, and no NIXL.
    switch CommandLine.arguments.dropFirst().first {
    case "group": GroupHost.run(Array(CommandLine.arguments.dropFirst(2)))
    case "start": GroupHost.start(Array(CommandLine.arguments.dropFirst(2)))
    default: break
    }
    let discovery = NIXLDiscovery(explicitPath: nil)
    guard let library = discovery.library else { finish([discovery.explanation]) }
    let arguments = Array(CommandLine.arguments.dropFirst())
    do {
      switch arguments.first {
      case "serve": try serve(library)
      case "conformance": finish(try conformance(library))
      case "killed": finish(try killed(library))
      case "stopped": finish(try stopped(library))
      case "metadata": finish(try metadata(library))
      case "orphan": finish(try orphan(library))
      case "agents": finish(try agents(library))
      default:
        finish(["usage: conformance, killed, stopped, metadata, orphan, agents, group, start"])
      }
    } catch { finish(["\(error)"]) }
  }

  static func finish(_ failures: [String]) -> Never {
    for failure in failures { FileHandle.standardOutput.write(Data("\(failure)\n".utf8)) }
    NIXLLibrary.endProcess(failures.isEmpty ? 0 : 1)
  }

  // MARK: The source's side

  struct Announcement: Codable {
    var metadata: [UInt8]
    var address: UInt64
  }

  /// Serves a patterned pool until its input ends.
  static func serve(_ library: NIXLLibrary) throws -> Never {
    var generator = SystemRandomNumberGenerator()
    let incarnation = Incarnation(using: &generator)
    let pool = try PoolMemory(slotCount: slotCount, blockBytes: blockBytes, owner: incarnation)
    TransportConformance.fill(
      BlockRegion(base: pool.base, blockBytes: blockBytes, blockCount: slotCount))
    // For reading only, as a node's agent has it.
    let mapping = try PoolMapping(
      pool.readOnlyDescriptor, slotCount: slotCount, blockBytes: blockBytes, owner: incarnation)
    let agent = try ServingAgent(name: "serve-\(incarnation)", pools: [mapping], library: library)
    let announcement = Announcement(
      metadata: agent.metadata, address: UInt64(UInt(bitPattern: mapping.base)))
    var line = try JSONEncoder().encode(announcement)
    line.append(10)
    FileHandle.standardOutput.write(line)
    var reader = LineReader(0, bytesMax: 1 << 10)
    while reader.next() != nil {}
    withExtendedLifetime((agent, pool, mapping)) { finish([]) }
  }

  // MARK: The target's side

  /// A source in a process of its own, and a transport that can read it.
  final class Pair {
    let source: ChildProcess
    let announcement: Announcement
    let target: BlockRegion
    let transport: NIXLTransport
    let name = SourceID.peer(name: "source", Incarnation(high: 1, low: 1))
    private let input: Pipe
    var events: [TransferEvent] = []

    init(_ library: NIXLLibrary) throws {
      input = Pipe()
      let output = Pipe()
      source = try ChildProcess(
        "/proc/self/exe".resolved, ["serve"], input: input.fileHandleForReading.fileDescriptor,
        output: output.fileHandleForWriting.fileDescriptor)
      try output.fileHandleForWriting.close()
      var reader = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 1 << 20)
      guard case .text(let line)? = reader.next() else {
        throw Failure("the source ended before it served")
      }
      announcement = try JSONDecoder().decode(Announcement.self, from: Data(line))
      let blockCount = slotCount
      let memory = UnsafeMutableRawPointer.allocate(
        byteCount: blockBytes * blockCount, alignment: 4096)
      memset(memory, 0, blockBytes * blockCount)
      target = BlockRegion(base: memory, blockBytes: blockBytes, blockCount: blockCount)
      transport = NIXLTransport(
        target: target, library: library, name: "target-\(getpid())", limits: Limits())
    }

    var description: SourceDescription {
      .nixl(
        RankPool(
          metadata: announcement.metadata, address: announcement.address, slotCount: slotCount,
          blockBytes: blockBytes))
    }

    func post(_ ordinal: Int, blocks: Range<Int>) throws {
      try transport.post(
        TransferID(fetch: FetchID(1), ordinal: ordinal), from: name,
        blocks.map { BlockMove(target: BlockIndex($0), source: SlotIndex($0)) },
        at: MonotonicClock.now())
    }

    /// Polls until `check` holds, or time is up.
    func poll(seconds: Double, until check: () -> Bool) -> Bool {
      let deadline = MonotonicClock.now() + .milliseconds(Int(seconds * 1000))
      while !check() {
        guard MonotonicClock.now() < deadline else { return false }
        transport.poll(at: MonotonicClock.now(), into: &events)
      }
      return true
    }

    func count(_ matches: (TransferEvent) -> Bool) -> Int { events.count { matches($0) } }
    var landed: Int { count { if case .landed = $0 { true } else { false } } }
    var failed: Int { count { if case .failed = $0 { true } else { false } } }
    var quiet: Int { count { if case .quiet = $0 { true } else { false } } }
  }

  struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
  }

  static func conformance(_ library: NIXLLibrary) throws -> [String] {
    let pair = try Pair(library)
    let suite = TransportConformance(
      pair.transport, target: pair.target, source: pair.name, description: pair.description,
      slotCount: slotCount)
    return suite.run().map(\.description)
  }

  /// SIGKILL with reads in flight: all fail, all go quiet, and nothing is written after that.
  static func killed(_ library: NIXLLibrary) throws -> [String] {
    let pair = try Pair(library)
    try pair.transport.attach(pair.name, pair.description)
    // Stopped first, so that the reads are in flight for certain when it dies.
    pair.source.signal(SIGSTOP)
    while pair.source.stateLetter != "T" { usleep(1000) }
    for ordinal in 0..<4 { try pair.post(ordinal, blocks: ordinal * 16..<(ordinal + 1) * 16) }
    var failures: [String] = []
    if pair.poll(seconds: 0.3, until: { pair.landed + pair.failed == 4 }) {
      failures.append("nothing was in flight when the source was killed")
    }
    let inFlight = 4 - pair.landed - pair.failed
    pair.source.signal(SIGKILL)
    guard pair.source.hasEnded(waiting: 5000) else { return ["the source did not die"] }
    let died = MonotonicClock.now()
    if !pair.poll(seconds: 5, until: { pair.failed == inFlight && pair.quiet == inFlight }) {
      failures.append("\(pair.failed) failed and \(pair.quiet) went quiet of \(inFlight)")
    }
    let took = MonotonicClock.now() - died
    if pair.transport.inFlightCount != 0 { failures.append("something is still in flight") }
    if pair.transport.agentCount != 0 { failures.append("the dead source's agent is still there") }
    memset(pair.target.base, 0x5A, blockBytes * slotCount)
    _ = pair.poll(seconds: 0.2) { false }
    if !pair.target.all.allSatisfy({ $0 == 0x5A }) { failures.append("written after quiet") }
    print("quiet \(took.inSeconds * 1e3) ms after death")
    return failures
  }

  /// SIGSTOP: nothing ends, nothing is quiet. SIGCONT: everything lands.
  static func stopped(_ library: NIXLLibrary) throws -> [String] {
    let pair = try Pair(library)
    try pair.transport.attach(pair.name, pair.description)
    // A connection that the source has not answered yet is always writable, and UCX waits for just that: it is
    // heard all the time then (a pump sleeps all the same, see PumpNaps). So one read comes first.
    try pair.post(9, blocks: 0..<1)
    guard pair.poll(seconds: 10, until: { pair.landed == 1 }) else {
      return ["nothing landed before the source was stopped"]
    }
    pair.events = []
    pair.source.signal(SIGSTOP)
    while pair.source.stateLetter != "T" { usleep(1000) }
    for ordinal in 0..<4 { try pair.post(ordinal, blocks: ordinal * 16..<(ordinal + 1) * 16) }
    var failures: [String] = []
    _ = pair.poll(seconds: 1) { pair.events.count > 0 }
    if pair.failed > 0 || pair.quiet > 0 {
      failures.append("a stopped source was reported: \(pair.events)")
    }
    if pair.transport.inFlightCount == 0 { failures.append("nothing was in flight") }
    // A pump that sleeps is woken by what arrives, and by nothing else.
    let bell = EventBell()
    guard let descriptors = pair.transport.eventDescriptors, !descriptors.isEmpty else {
      return failures + ["nothing announces what arrives over tcp"]
    }
    // What came before it stopped may still be there to be read.
    var isQuiet = false
    let deadline = MonotonicClock.now() + .seconds(5)
    while !isQuiet, MonotonicClock.now() < deadline {
      pair.transport.poll(at: MonotonicClock.now(), into: &pair.events)
      let until = MonotonicClock.now() + .milliseconds(200)
      isQuiet = bell.wait(until: until, hearing: descriptors) == .nothing
    }
    if !isQuiet { failures.append("a stopped source is heard all the time") }
    pair.source.signal(SIGCONT)
    if bell.wait(until: MonotonicClock.now() + .seconds(10), hearing: descriptors) != .descriptor {
      failures.append("a source that goes on is not heard")
    }
    if !pair.poll(seconds: 10, until: { pair.landed == 4 }) {
      failures.append("\(pair.landed) of 4 landed after the source went on")
    }
    for block in 0..<slotCount
    where pair.target.bytes(of: block)[100] != TransportConformance.pattern(slot: block, byte: 100)
    {
      failures.append("block \(block) is wrong")
    }
    return failures
  }

  /// Bad metadata is refused before NIXL sees it; a good peer of the same name stays usable.
  static func metadata(_ library: NIXLLibrary) throws -> [String] {
    let pair = try Pair(library)
    let agent = try Agent(name: "metadata", hasProgressThread: false, library: library)
    _ = try agent.loadPeer(pair.announcement.metadata, bytesMax: 1 << 20)
    var failures: [String] = []
    let good = pair.announcement.metadata
    var flipped = good
    flipped[good.count - 1] ^= 1
    let bad: [(String, [UInt8])] = [
      ("empty", []), ("truncated", Array(good.dropLast(7))), ("one bit wrong", flipped),
      ("longer than declared", good + [0]), ("not a frame", Array(repeating: 65, count: 400)),
      ("too long", Array(repeating: 0, count: (1 << 20) + 4096)),
    ]
    for (name, frame) in bad {
      do throws(NIXLError) {
        _ = try agent.loadPeer(frame, bytesMax: 1 << 20)
        failures.append("\(name) metadata was accepted")
      } catch {
        guard case .metadata = error else {
          failures.append("\(name) metadata reached NIXL: \(error)")
          continue
        }
      }
    }
    try pair.transport.attach(pair.name, pair.description)
    try pair.post(0, blocks: 0..<16)
    if !pair.poll(seconds: 5, until: { pair.landed == 1 }) {
      failures.append("the good peer no longer lands: \(pair.events)")
    }
    return failures
  }

  /// Room for one agent, and two sources: the idle one makes room, the busy one does not.
  static func agents(_ library: NIXLLibrary) throws -> [String] {
    let (first, second) = (try Pair(library), try Pair(library))
    let limits = Limits { $0.agentsMax = 1 }
    let transport = NIXLTransport(
      target: first.target, library: library, name: "few-\(getpid())", limits: limits)
    let names = ["a", "b"].map { SourceID.peer(name: $0, Incarnation(high: 1, low: 1)) }
    var failures: [String] = []
    var ordinal = 0
    var events: [TransferEvent] = []
    func post(_ index: Int) throws {
      ordinal += 1
      try transport.post(
        TransferID(fetch: FetchID(1), ordinal: ordinal), from: names[index],
        (0..<16).map { BlockMove(target: BlockIndex($0), source: SlotIndex($0)) },
        at: MonotonicClock.now())
    }
    func lands() -> Bool {
      let deadline = MonotonicClock.now() + .seconds(5)
      while transport.inFlightCount > 0, MonotonicClock.now() < deadline {
        transport.poll(at: MonotonicClock.now(), into: &events)
      }
      defer { events = [] }
      return events.count == 1 && events.allSatisfy { if case .landed = $0 { true } else { false } }
    }
    for (index, pair) in [first, second].enumerated() {
      try transport.attach(names[index], pair.description)
    }
    for index in [0, 1, 0] {
      try post(index)
      if !lands() { failures.append("source \(index) did not land") }
      if transport.agentCount != 1 { failures.append("\(transport.agentCount) agents") }
    }
    first.source.signal(SIGSTOP)
    while first.source.stateLetter != "T" { usleep(1000) }
    try post(0)
    do {
      try post(1)
      failures.append("a busy agent was dropped for another source")
    } catch {
      if !"\(error)".contains("busy") { failures.append("refused with \(error)") }
    }
    first.source.signal(SIGCONT)
    if !lands() { failures.append("the busy source did not land") }
    try post(1)
    if !lands() { failures.append("the other source did not land afterwards") }
    return failures
  }

  /// A request dropped in flight is kept by its agent until it is terminal, and only then released.
  static func orphan(_ library: NIXLLibrary) throws -> [String] {
    let pair = try Pair(library)
    let agent = try Agent(name: "orphan", hasProgressThread: false, library: library)
    let peer = try agent.loadPeer(pair.announcement.metadata, bytesMax: 1 << 20)
    let registration = try agent.register(pair.target.all)
    let local = try DescriptorList.local(
      (0..<slotCount).map { ($0 * blockBytes, blockBytes) }, in: registration, of: agent)
    let base = UInt(pair.announcement.address)
    let remote = try DescriptorList.remote(
      (0..<slotCount).map { (base + UInt($0 * blockBytes), blockBytes) }, peer: peer, of: agent)
    try agent.connect(to: peer)
    pair.source.signal(SIGSTOP)
    while pair.source.stateLetter != "T" { usleep(1000) }
    try drop(agent, local, remote)
    var failures: [String] = []
    if agent.orphanCount != 1 { failures.append("\(agent.orphanCount) orphans, not 1") }
    pair.source.signal(SIGCONT)
    let deadline = MonotonicClock.now() + .seconds(10)
    while agent.sweepOrphans() > 0, MonotonicClock.now() < deadline {}
    if agent.orphanCount != 0 { failures.append("the orphan never ended") }
    if pair.target.bytes(of: 3)[5] != TransportConformance.pattern(slot: 3, byte: 5) {
      failures.append("the orphan's bytes did not land, so it was not in flight")
    }
    return failures
  }

  private static func drop(
    _ agent: borrowing Agent, _ local: borrowing DescriptorList, _ remote: borrowing DescriptorList
  ) throws {
    let all = (0..<Int32(slotCount)).map { $0 }
    var request = try TransferRequest(
      reading: all, of: remote, into: all, of: local, on: agent)
    guard request.post() == .inProgress else { throw Failure("the read did not start") }
  }
}

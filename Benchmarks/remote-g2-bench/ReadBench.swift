import Foundation
import KVTransfer
import LocalStore
import NIXL
import NIXLTransfer
import OSThreads
import PoolAgents
import Processes
import RemoteG2Core
import RemoteG2Runtime

/// (a) READ throughput through NIXLTransport and the pump's core, as the engine uses them, between
/// two processes; against NIXL's own calls on the same descriptors, and memcpy of the same blocks.
enum ReadBench {
  private static let totalBytes = 64 << 20
  private static let rounds = 48

  struct Announcement: Codable {
    var metadata: [UInt8]
    var address: UInt64
  }

  /// Serves a pool of `slots` blocks of `bytes` until the input ends.
  static func serve(_ arguments: [Int]) throws {
    guard arguments.count == 2, let library = NIXLDiscovery(explicitPath: nil).library else {
      return
    }
    var generator = SystemRandomNumberGenerator()
    let owner = Incarnation(using: &generator)
    let pool = try PoolMemory(slotCount: arguments[0], blockBytes: arguments[1], owner: owner)
    memset(pool.base, 0x5A, arguments[0] * arguments[1])
    let mapping = try PoolMapping(
      pool.readOnlyDescriptor, slotCount: arguments[0], blockBytes: arguments[1], owner: owner)
    let agent = try ServingAgent(name: "bench-\(owner)", pools: [mapping], library: library)
    var line = try JSONEncoder().encode(
      Announcement(metadata: agent.metadata, address: UInt64(UInt(bitPattern: mapping.base))))
    line.append(10)
    FileHandle.standardOutput.write(line)
    var reader = LineReader(0, bytesMax: 1024)
    while reader.next() != nil {}
    withExtendedLifetime((agent, pool, mapping)) {}
  }

  static func run() throws {
    let transport = ProcessInfo.processInfo.environment["UCX_TLS"] ?? "unset (cma)"
    print(
      "\n(a) READ, two processes, UCX_TLS \(transport), \(totalBytes >> 20) MiB, shuffled blocks:")
    print(
      "  block    engine   raw NIXL   memcpy GB/s   engine/raw (quartiles)   engine/memcpy   "
        + "(medians of \(rounds) rounds; a ratio is taken within its round)"
    )
    guard let library = NIXLDiscovery(explicitPath: nil).library else {
      print("  NIXL is not installed: run scripts/setup")
      return
    }
    for bytes in [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
      try measure(bytes, library)
    }
  }

  private static func measure(_ blockBytes: Int, _ library: NIXLLibrary) throws {
    let count = totalBytes / blockBytes
    let source = try Source(count: count, blockBytes: blockBytes)
    defer { source.end() }
    let announcement = source.announcement
    let memory = UnsafeMutableRawPointer.allocate(byteCount: totalBytes, alignment: 4096)
    memset(memory, 1, totalBytes)
    defer { memory.deallocate() }
    let target = BlockRegion(base: memory, blockBytes: blockBytes, blockCount: count)
    var generator = SplitMixOrder(seed: 7)
    let sources = (0..<count).shuffled(using: &generator)
    let targets = (0..<count).shuffled(using: &generator)

    let peer = SourceID.peer(name: "bench", Incarnation(high: 1, low: UInt64(blockBytes)))
    let limits = Limits()
    let pump = PumpCore(
      target: target,
      peers: NIXLTransport(
        target: target, library: library, name: "bench-\(blockBytes)", limits: limits),
      rank: 0, limits: limits)
    pump.handle(
      .attach(
        1, peer,
        .nixl(
          RankPool(
            metadata: announcement.metadata, address: announcement.address, slotCount: count,
            blockBytes: blockBytes))), at: MonotonicClock.now())
    let moves = zip(targets, sources).map {
      BlockMove(target: BlockIndex($0), source: SlotIndex($1))
    }
    let raw = try Raw(announcement, target, count, library)
    let copyFrom = UnsafeMutableRawPointer.allocate(byteCount: totalBytes, alignment: 4096)
    memset(copyFrom, 2, totalBytes)
    defer { copyFrom.deallocate() }

    var (engine, direct, copy) = ([Double](), [Double](), [Double]())
    for round in 0...rounds {
      let fetch = FetchID(UInt64(round + 1))
      func throughEngine() -> Double {
        let seconds = Bench.seconds {
          pump.handle(
            .rank(.load(fetch, from: peer, moves: moves, stall: nil)), at: MonotonicClock.now())
          var isDone = false
          while !isDone {
            _ = pump.run(at: MonotonicClock.now())
            isDone = pump.takeReport().progress[fetch]?.isTerminal == true
          }
        }
        pump.handle(.rank(.forget(fetch)), at: MonotonicClock.now())
        return seconds
      }
      // In turns, because the second to read finds part of the source in the cache.
      let isRawFirst = round % 2 == 0
      var b = isRawFirst ? try Bench.seconds { try raw.read(sources, targets) } : 0
      let a = throughEngine()
      if !isRawFirst { b = try Bench.seconds { try raw.read(sources, targets) } }
      let c = Bench.seconds {
        for (to, from) in zip(targets, sources) {
          memcpy(target.pointer(to: to), copyFrom + from * blockBytes, blockBytes)
        }
      }
      // The first round connects and warms up.
      guard round > 0 else { continue }
      engine.append(a)
      direct.append(b)
      copy.append(c)
    }
    pump.shutDown()
    // What else the machine does changes from second to second: only neighbours are compared.
    let toRaw = zip(direct, engine).map { $0 / $1 }
    let toCopy = zip(copy, engine).map { $0 / $1 }
    let rate = { (seconds: [Double]) in Double(totalBytes) / Bench.quantile(seconds, 0.5) / 1e9 }
    let size = blockBytes < 1 << 20 ? "\(blockBytes >> 10) KiB" : "\(blockBytes >> 20) MiB"
    print(
      String(
        format: "  %@   %6.2f   %8.2f   %11.2f   %10.2f (%.2f to %.2f)   %13.2f",
        size.padding(toLength: 7, withPad: " ", startingAt: 0), rate(engine), rate(direct),
        rate(copy), Bench.quantile(toRaw, 0.5), Bench.quantile(toRaw, 0.25),
        Bench.quantile(toRaw, 0.75), Bench.quantile(toCopy, 0.5)))
  }

  /// A process that serves a pool of its own over NIXL.
  final class Source {
    let announcement: Announcement
    private let process: ChildProcess
    private let input = Pipe()

    init(count: Int, blockBytes: Int) throws {
      let output = Pipe()
      process = try ChildProcess(
        "/proc/self/exe".resolved, ["serve", "\(count)", "\(blockBytes)"],
        input: input.fileHandleForReading.fileDescriptor,
        output: output.fileHandleForWriting.fileDescriptor)
      var reader = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 1 << 20)
      guard case .text(let line)? = reader.next() else { throw BenchFailure("no source") }
      announcement = try JSONDecoder().decode(Announcement.self, from: Data(line))
    }

    func end() {
      try? input.fileHandleForWriting.close()
      if !process.hasEnded(waiting: 3000) { process.signal(SIGKILL) }
    }
  }

  /// The same descriptors in one prepared request, posted and polled with nothing around it.
  final class Raw {
    private let remote: DescriptorList
    private let local: DescriptorList
    private let agent: Agent

    init(
      _ announcement: Announcement, _ target: BlockRegion, _ count: Int, _ library: NIXLLibrary
    ) throws {
      let agent = try Agent(
        name: "raw-\(target.blockBytes)", hasProgressThread: false, library: library)
      let peer = try agent.loadPeer(announcement.metadata, bytesMax: 1 << 20)
      let registration = try agent.register(target.all)
      let bytes = target.blockBytes
      local = try DescriptorList.local(
        (0..<count).map { ($0 * bytes, bytes) }, in: registration, of: agent)
      remote = try DescriptorList.remote(
        (0..<count).map { (UInt(announcement.address) + UInt($0 * bytes), bytes) }, peer: peer,
        of: agent)
      try agent.connect(to: peer)
      self.agent = agent
    }

    func read(_ sources: [Int], _ targets: [Int]) throws {
      var request = try TransferRequest(
        reading: sources.map(Int32.init), of: remote, into: targets.map(Int32.init), of: local,
        on: agent)
      var status = request.post()
      while status == .inProgress { status = request.poll() }
      guard status == .success else { throw NIXLError.call("bench", status) }
    }
  }
}

/// A fixed order, so that every run moves the same blocks.
struct SplitMixOrder: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return state ^ (state >> 31)
  }
}

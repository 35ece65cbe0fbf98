import Foundation
import Glibc
import KVTransfer
import NIXL
import NIXLTransfer
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Library
import RemoteG2Node
import RemoteG2Runtime

/// (h) Blocks over a stream, from one process's node into another's pool, beside a plain socket that copies as
/// many bytes between memories of the same processes. (i) What a question to the own node costs.
enum NodeBench {
  static let totalBytes = 64 << 20
  static let rounds = 9
  private static let tokensPerBlock = 16
  /// Of SmolLM2 in fp32: sixteen tokens.
  private static let smallBlock = 737_280
  private static let smallCount = 120

  struct Announcement: Codable {
    var port: Int
    var plainPort: Int
  }

  static func run() throws {
    // What its children and its own agents read over.
    setenv("UCX_TLS", "tcp", 1)
    print("\n(h) blocks over a stream, two processes, loopback, \(totalBytes >> 20) MiB a round:")
    print(
      "  block      stream   plain socket GB/s   stream/plain (quartiles)   without digests/plain   (medians of "
        + "\(rounds) rounds)   without digests/raw NIXL READ over UCX tcp (GB/s)"
    )
    for bytes in [64 << 10, 256 << 10, 1 << 20, 4 << 20] { try measure(bytes) }
    try encrypted()
    try latency()
    try local()
  }

  // MARK: The source's process

  /// Holds `prefixes` prefixes of `count` blocks of `bytes` until the input ends.
  static func serve(_ arguments: [Int]) throws {
    guard arguments.count == 3 else { return }
    let (bytes, count, prefixes) = (arguments[0], arguments[1], arguments[2])
    let folder = try makeFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let certificates = ProcessInfo.processInfo.environment[certificatesKey]
    let node = try Node(
      NodeConfiguration(
        name: "a", address: StreamAddress(host: "127.0.0.1", port: 0), members: [],
        memoryBytes: 2 * bytes * count * prefixes, directory: folder,
        tls: certificates.map { files("a", in: $0) }, log: { _ in }))
    let engine = try BenchEngine("\(folder)/a.node", blockBytes: bytes, blockCount: min(count, 32))
    for prefix in 0..<prefixes { try engine.save(keys(prefix, count)) }
    var bound: Int32 = 0
    let listener = try plainListener(&bound)
    nonisolated(unsafe) let memory = engine.memory
    let bytesOfMemory = bytes * min(count, 32)
    _ = OSThread.start("plain") {
      while true {
        let connection = accept(listener, nil, nil)
        guard connection >= 0 else { return }
        answerPlainly(connection, memory, bytesOfMemory)
        close(connection)
      }
    }
    var line = try JSONEncoder().encode(
      Announcement(port: node.port, plainPort: Int(bound)))
    line.append(10)
    FileHandle.standardOutput.write(line)
    var reader = LineReader(0, bytesMax: 1024)
    while reader.next() != nil {}
    node.stop()
  }

  /// Each question is a number of bytes; the answer is as many.
  private static func answerPlainly(
    _ connection: Int32, _ memory: UnsafeMutableRawPointer, _ count: Int
  ) {
    var wanted: UInt64 = 0
    while recv(connection, &wanted, 8, Int32(MSG_WAITALL)) == 8 {
      var left = Int(wanted)
      while left > 0 {
        let sent = send(connection, memory, min(left, count), Int32(MSG_NOSIGNAL))
        guard sent > 0 else { return }
        left -= sent
      }
    }
  }

  // MARK: The target's process

  /// A source's process, a node that knows it, and an engine beside that node.
  final class Pair {
    let source: ChildProcess
    let input = Pipe()
    let node: Node
    let engine: BenchEngine
    let plain: Int32
    private let address: StreamAddress
    private let folder: String

    /// - Parameter certificates: The folder of a's and b's; nil: nothing is encrypted.
    init(_ bytes: Int, count: Int, prefixes: Int, certificates: String? = nil) throws {
      let output = Pipe()
      source = try ChildProcess(
        "/proc/self/exe".resolved, ["node-serve", "\(bytes)", "\(count)", "\(prefixes)"],
        environment: certificates.map { [certificatesKey: $0] } ?? [:],
        input: input.fileHandleForReading.fileDescriptor,
        output: output.fileHandleForWriting.fileDescriptor, error: 2)
      try output.fileHandleForWriting.close()
      var reader = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 1 << 16)
      guard case .text(let line)? = reader.next() else { throw BenchFailure("no source") }
      let announcement = try JSONDecoder().decode(Announcement.self, from: Data(line))
      folder = try makeFolder()
      node = try Node(
        NodeConfiguration(
          name: "b", address: StreamAddress(host: "127.0.0.1", port: 0),
          members: [("a", StreamAddress(host: "127.0.0.1", port: announcement.port))],
          memoryBytes: 2 * bytes * count * prefixes, directory: folder,
          tls: certificates.map { files("b", in: $0) }, log: { _ in }))
      engine = try BenchEngine("\(folder)/b.node", blockBytes: bytes, blockCount: 1)
      let deadline = MonotonicClock.now() + .seconds(20)
      while node.look({ $0.report.members.first?.keys ?? 0 }) < count * prefixes {
        guard MonotonicClock.now() < deadline else { throw BenchFailure("b does not know a") }
        OSThread.nap(.milliseconds(2))
      }
      plain = try connectPlainly(announcement.plainPort)
      address = StreamAddress(host: "127.0.0.1", port: announcement.port)
      // Until the pages of both pools are there: they are found in the background.
      let quietBy = MonotonicClock.now() + .seconds(20)
      while processorSeconds(over: .milliseconds(300)) > 0.02 {
        guard MonotonicClock.now() < quietBy else {
          print("  (the processes are not quiet after 20 s: something else is measured, too)")
          break
        }
      }
    }

    /// What both processes take of it while this one sleeps.
    private func processorSeconds(over time: Duration) -> Double {
      let before = Bench.processorSeconds() + Bench.processorSeconds(of: source.pid)
      OSThread.nap(time)
      return Bench.processorSeconds() + Bench.processorSeconds(of: source.pid) - before
    }

    /// The same answers, read into memory without digests.
    func reader(into memory: UnsafeMutableRawPointer) throws -> MemberProbe.Puller {
      let finding = try MemberProbe.look(at: address, as: "a", own: nil)
      guard let terms = finding.pools.first else { throw BenchFailure("the source has no pool") }
      let hello = StreamHello(node: Incarnation(high: 3, low: 3), name: "reader", terms: terms)
      return try MemberProbe.Puller(
        address, of: "a", hello: hello, terms: terms, proves: false, into: memory)
    }

    func end() {
      close(plain)
      node.stop()
      try? input.fileHandleForWriting.close()
      if !source.hasEnded(waiting: 3000) { source.signal(SIGKILL) }
      try? FileManager.default.removeItem(atPath: folder)
    }

    /// As many bytes over the plain socket, into `memory`.
    func copyPlainly(_ count: Int, _ memory: UnsafeMutableRawPointer) {
      var wanted = UInt64(count)
      send(plain, &wanted, 8, Int32(MSG_NOSIGNAL))
      var done = 0
      while done < count {
        let got = recv(plain, memory + done, min(count - done, 1 << 20), 0)
        guard got > 0 else { return }
        done += got
      }
    }
  }

  private static func measure(_ bytes: Int) throws {
    let count = totalBytes / bytes
    let pair = try Pair(bytes, count: count, prefixes: rounds + 1)
    defer { pair.end() }
    let memory = UnsafeMutableRawPointer.allocate(byteCount: totalBytes, alignment: 4096)
    memset(memory, 1, totalBytes)
    defer { memory.deallocate() }
    var (streams, plains, ratios): ([Double], [Double], [Double]) = ([], [], [])
    var (unproved, nixls, toNIXL): ([Double], [Double], [Double]) = ([], [], [])
    let reader = try pair.reader(into: memory)
    let nixl = try NIXLReader(into: memory, count: count, blockBytes: bytes)
    defer { nixl?.end() }
    for round in 0...rounds {
      let stream = try Bench.seconds { try pair.engine.question(keys(round, count), want: count) }
      let plain = Bench.seconds { pair.copyPlainly(totalBytes, memory) }
      let bare = try Bench.seconds {
        guard try reader.ask(keys(round, count)) == count else {
          throw BenchFailure("too few blocks")
        }
      }
      let byNIXL = try nixl.map { nixl in try Bench.seconds { try nixl.read() } }
      // The first round makes connections and touches pages.
      guard round > 0 else { continue }
      if let byNIXL {
        nixls.append(Double(totalBytes) / byNIXL / 1e9)
        toNIXL.append(byNIXL / bare)
      }
      unproved.append(plain / bare)
      streams.append(Double(totalBytes) / stream / 1e9)
      plains.append(Double(totalBytes) / plain / 1e9)
      ratios.append(plain / stream)
    }
    print(
      "  " + "\(bytes >> 10) KiB".padding(toLength: 9, withPad: " ", startingAt: 0)
        + String(
          format: "%8.2f   %12.2f        %6.2f (%.2f to %.2f)   %12.2f (%.2f to %.2f)",
          Bench.quantile(streams, 0.5),
          Bench.quantile(plains, 0.5), Bench.quantile(ratios, 0.5), Bench.quantile(ratios, 0.25),
          Bench.quantile(ratios, 0.75), Bench.quantile(unproved, 0.5),
          Bench.quantile(unproved, 0.25), Bench.quantile(unproved, 0.75))
        + (nixls.isEmpty
          ? "   NIXL is not installed"
          : String(
            format: "   %6.2f (%.2f to %.2f; %.2f)", Bench.quantile(toNIXL, 0.5),
            Bench.quantile(toNIXL, 0.25), Bench.quantile(toNIXL, 0.75),
            Bench.quantile(nixls, 0.5))))
  }

  /// The same bytes by NIXL's own calls, from a process of its own into the same memory.
  private final class NIXLReader {
    private let source: ReadBench.Source
    private let raw: ReadBench.Raw
    private let order: [Int]

    init?(into memory: UnsafeMutableRawPointer, count: Int, blockBytes: Int) throws {
      guard let library = NIXLDiscovery(explicitPath: nil).library else { return nil }
      source = try ReadBench.Source(count: count, blockBytes: blockBytes)
      let target = BlockRegion(base: memory, blockBytes: blockBytes, blockCount: count)
      raw = try ReadBench.Raw(source.announcement, target, count, library)
      order = Array(0..<count)
    }

    func read() throws { try raw.read(order, order) }
    func end() { source.end() }
  }

  /// One block of sixteen tokens at a time.
  private static func latency() throws {
    let pair = try Pair(smallBlock, count: 1, prefixes: smallCount)
    defer { pair.end() }
    let memory = UnsafeMutableRawPointer.allocate(byteCount: smallBlock, alignment: 4096)
    memset(memory, 1, smallBlock)
    defer { memory.deallocate() }
    var (streams, plains): ([Double], [Double]) = ([], [])
    for round in 0..<smallCount {
      let stream = try Bench.seconds { try pair.engine.question(keys(round, 1), want: 1) }
      let plain = Bench.seconds { pair.copyPlainly(smallBlock, memory) }
      guard round >= 10 else { continue }
      streams.append(stream * 1e6)
      plains.append(plain * 1e6)
    }
    print(
      String(
        format:
          "  one block of 16 tokens (%d KiB), question to readable: %.0f / %.0f us (p50 / p99); a bare "
          + "socket's ping-pong of the same bytes %.0f / %.0f", smallBlock >> 10,
        Bench.quantile(streams, 0.5), Bench.quantile(streams, 0.99),
        Bench.quantile(plains, 0.5), Bench.quantile(plains, 0.99)))
  }

  // MARK: The own node

  private static func local() throws {
    print("\n(i) an engine and its own node:")
    let folder = try makeFolder()
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let node = try Node(
      NodeConfiguration(
        name: "n", address: StreamAddress(host: "127.0.0.1", port: 0), members: [],
        memoryBytes: 256 << 20, directory: folder, log: { _ in }))
    defer { node.stop() }
    let engine = try BenchEngine(
      "\(folder)/n.node", blockBytes: 4 << 20, blockCount: 16, layers: 16)
    let known = keys(1, 16)
    try engine.save(known)
    var misses: [Double] = []
    for round in 0..<2000 {
      misses.append(
        try Bench.seconds { try engine.question(keys(1000 + round, 4), want: 0) } * 1e6)
    }
    let pings = roundTrips(2000)
    print(
      String(
        format:
          "  arrival to none: %.0f / %.0f us (p50 / p99); a bare round trip between two threads over a "
          + "socket of the same kind %.0f / %.0f", Bench.quantile(misses, 0.5),
        Bench.quantile(misses, 0.99), Bench.quantile(pings, 0.5), Bench.quantile(pings, 0.99)))
    try engine.copyIn(known)
  }

  /// Microseconds of a message to another thread and back.
  private static func roundTrips(_ count: Int) -> [Double] {
    var ends: [Int32] = [-1, -1]
    guard socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0 else { return [0] }
    let (near, far) = (ends[0], ends[1])
    let echo = OSThread.start("echo") {
      var bytes = [UInt8](repeating: 0, count: 128)
      while true {
        let got = recv(far, &bytes, bytes.count, 0)
        guard got > 0 else { return }
        send(far, bytes, got, 0)
      }
    }
    var bytes = [UInt8](repeating: 1, count: 96)
    let times = (0..<count).map { _ in
      Bench.seconds {
        send(near, bytes, bytes.count, 0)
        recv(near, &bytes, bytes.count, 0)
      } * 1e6
    }
    close(near)
    echo.join()
    close(far)
    return times
  }

  // MARK: Parts

  static func keys(_ prefix: Int, _ count: Int) -> [BlockKey] {
    (0..<count).map { BlockKey(high: UInt64(prefix), low: UInt64($0)) }
  }

  private static func makeFolder() throws -> String {
    let folder =
      FileManager.default.temporaryDirectory.path + "/rg2b-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(
      atPath: folder, withIntermediateDirectories: true,
      attributes: [.posixPermissions: 0o700])
    return folder
  }

  private static func address(_ port: Int) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return address
  }

  private static func plainListener(_ port: inout Int32) throws -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var (own, length) = (address(0), socklen_t(MemoryLayout<sockaddr_in>.size))
    let isBound = withUnsafeMutablePointer(to: &own) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, length) == 0 && listen(descriptor, 4) == 0
          && getsockname(descriptor, $0, &length) == 0
      }
    }
    guard isBound else { throw BenchFailure("no plain socket") }
    port = Int32(UInt16(bigEndian: own.sin_port))
    return descriptor
  }

  private static func connectPlainly(_ port: Int) throws -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var other = address(port)
    let isConnected = withUnsafePointer(to: &other) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
    guard isConnected else { throw BenchFailure("no plain connection") }
    var on: Int32 = 1
    setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
    return descriptor
  }
}

struct BenchFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

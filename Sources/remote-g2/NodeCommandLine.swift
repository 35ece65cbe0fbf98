import ArgumentParser
import Foundation
import NodeKeeper
import NodeMetrics
import NodeRegistry
import OSThreads
import PoolAgents
import Processes
import RemoteG2Control
import RemoteG2Core
import RemoteG2Node

struct NodeCommandLine: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "node",
    abstract: "Hold the prefix blocks of this host's engines, and share them with other nodes.",
    discussion: """
      One node serves all engines of a host: engines of one model share a pool, made when the first of \
      them attaches. Engines find it by its socket in the run directory. Other members are told what it \
      holds, and are sent blocks, on the port after that of --listen. On that of --listen itself \
      /metrics (for Prometheus) and /healthz are answered. Engines that read a peer's pool by themselves, over \
      NIXL, need --direct.
      """)

  @Option(help: "Unique in the fleet.") var name: String
  @Option(
    help: "Address for other members; they use the port after it. Port 0: the system chooses both.")
  var listen = "127.0.0.1:7001"
  @Option(
    help: ArgumentHelp(
      """
      Address at which engines of peers (`worker --peer`) learn how to read this node's pools over NIXL. Needs \
      NIXL, which is loaded by a process of its own for each pool.
      """, valueName: "host:port"))
  var direct: String?
  @Option(
    help: ArgumentHelp(
      "Ends after this time without an engine and without a reader; without it, never.",
      valueName: "seconds"))
  var linger: Double?
  @Option(
    help: ArgumentHelp(
      "Another member, by its name and what it was given as --listen; may be repeated.",
      valueName: "name=host:port"))
  var member: [String] = []
  @Option(
    help: ArgumentHelp(
      """
      Where members are found out, again and again: dns:HOST:PORT, every address of HOST is a member's that listens on \
      PORT; srv:NAME, the records of that service name members by the first part of their hosts' names; \
      etcd:https://HOST:PORT (or http://), or several of them with commas, where members register themselves. May be \
      repeated.
      """, valueName: "source"))
  var members: [String] = []
  @Option(help: "Bytes for all pools together, e.g. 512MiB or 4GiB.") var memory = "1GiB"
  @Option(help: "Folder for socket and lock.") var runDir: String?
  @Option(
    help: """
      A group, by name or number, whose members' engines may attach too; the run directory and the socket are \
      then the group's. Without it, only this user's and root's may.
      """)
  var group: String?
  @Flag(
    name: .customLong("private"),
    help: "Of one worker, which starts it: other engines of this host do not look for it.")
  var isPrivate = false
  @Flag(
    help: """
      Serves from this process alone, so that its blocks end with it. Without it this process only keeps them, and \
      another one serves: when that dies, the next has what it held.
      """
  )
  var noKeeper = false
  /// Started by the keeper, whose connection is the standard input.
  @Flag(help: .hidden) var kept = false
  @OptionGroup var transport: TransportOptions
  @OptionGroup var tls: TLSOptions
  @OptionGroup var etcd: EtcdOptions

  func run() async throws {
    // A worker starts its own anew, and has its blocks in its engine.
    guard kept || noKeeper || isPrivate else { return await Self.keep() }
    try await serve()
  }

  /// Keeps the memory, and has another process serve from it.
  private static func keep() async {
    signal(SIGPIPE, SIG_IGN)
    // Two descriptors for each rank of each pool.
    var files = rlimit()
    if getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &files) == 0 {
      files.rlim_cur = files.rlim_max
      _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &files)
    }
    // Not where it points: what is there may be another version by the time of a later start.
    let launch = KeeperLaunch(
      program: "/proc/self/exe", arguments: CommandLine.arguments.dropFirst() + ["--kept"])
    let keeper = Keeper(launch, limits: Limits(), log: { say($0) })
    Task {
      await Interruption.comes()
      keeper.end()
    }
    let status = await withCheckedContinuation { continuation in
      OSThread.start("keeper") { continuation.resume(returning: keeper.run()) }.detach()
    }
    Foundation.exit(status)
  }

  /// What the keeper has of the process before; nil: nobody keeps anything.
  private func keeperLink() -> KeeperLink? {
    guard kept else { return nil }
    // Even where the keeper has gone already.
    ProcessLife.endsWithParent()
    guard let link = KeeperLink(STDIN_FILENO, limits: Limits()) else {
      fail("--kept is for the processes that a node starts itself: its keeper does not answer")
    }
    // What it had sent can be read after it has gone, and then nothing ends this process.
    guard link.keeper == getppid() else { fail("its keeper has ended") }
    return link
  }

  private func serve() async throws {
    let keeper = keeperLink()
    checkName(name)
    let files = tls.files
    let ofControl = direct == nil ? nil : tls.ofControl
    let address = Self.address(listen, flag: "--listen", mayBeAny: true)
    let reading = direct.map { direct in
      let halves = Self.halves(direct, flag: "--direct", ports: 0...65535)
      return StoreAddress(host: halves.host, port: halves.port)
    }
    for (flag, host) in [("--listen", address.host), ("--direct", reading?.host)] {
      guard let host, !TransportOptions.isLoopback(host), !transport.insecure else { continue }
      // NIXL encrypts nothing, whatever certificate the node has.
      guard flag == "--direct" || files == nil else { continue }
      fail(
        "\(flag) \(host) is not loopback: "
          + (flag == "--direct" ? "" : "give the node a certificate (--tls-certificate), or ")
          + "add --insecure if every machine on that network is trusted")
    }
    if let linger, !(0...86_400).contains(linger) {
      fail("--linger \(linger) is not 0 to 86400 seconds")
    }
    transport.prepare(host: reading?.host ?? address.host)
    let told = toldMembers()
    let registered = etcd.registry(
      among: members, insecure: transport.insecure, isFirst: keeper.map { $0.life == 1 } ?? true)
    let configuration = NodeConfiguration(
      name: PeerName(name), address: address, members: told.fixed, lookups: told.asked,
      memoryBytes: byteCount("--memory", memory),
      directory: runDirectory(runDir, group: groupNumber), group: groupNumber,
      isPrivate: isPrivate, hasAgents: reading != nil, tls: files, keeper: keeper,
      log: { Self.say($0) })
    // Its port is had before engines find the node.
    let direct = DirectService()
    var server: StoreServer?
    do throws(ServeError) {
      if let reading {
        server = try await StoreServer.start(
          backend: direct, host: reading.host, port: reading.port, limits: configuration.limits,
          certificates: ofControl)
      }
    } catch { fail("--direct \(self.direct ?? ""): \(error)") }
    let node: Node
    do throws(NodeError) { node = try Node(configuration) } catch { fail("\(error)") }
    direct.serve(node)
    let registry = registered.map { registered in
      EtcdRegistry(
        .init(
          endpoints: registered.endpoints, name: configuration.name,
          listen: HostAndPort(host: address.host, port: max(0, node.port - 1)).description,
          access: registered.access),
        limits: configuration.limits, found: { node.found($0, by: .registry) },
        log: { Self.say($0) })
    }
    let metrics: MetricsServer
    do throws(MetricsServer.Failure) {
      metrics = try MetricsServer(
        host: address.host, port: max(0, address.port - 1),
        metrics: { node.look(\.report).metrics },
        hanging: { node.hanging })
    } catch {
      node.stop()
      fail("\(error); choose another --listen")
    }
    keeper?.serves(port: node.port)
    let agents = configuration.hasAgents ? AgentKeeper(node, agentLaunch(configuration)) : nil
    Self.say(
      "\(name) holds up to \(memory) at \(configuration.socketPath) and serves members at "
        + "\(address.host):\(node.port)")
    // Whoever read the first of these may have closed his end by the next process.
    try? FileHandle.standardOutput.write(
      contentsOf: Data(
        ("{\"event\":\"ready\",\"port\":\(node.port),\"direct\":\(server?.port ?? 0),"
          + "\"incarnation\":\"\(node.incarnation)\"}\n").utf8))
    await Interruption.comes(orWhen: lingering(node))
    // Gone from the file system first, so that a new worker starts its own.
    node.stopListening()
    // Who is being sent something gets it, for a while; nobody else begins.
    node.leave()
    async let hasLeft: Void? = registry?.stop()
    await Self.waits(atMost: configuration.limits.drainMax) { node.isDrained }
    _ = await hasLeft
    agents?.stop()
    await server?.stop()
    metrics.stop()
    node.stop()
  }

  private static func waits(atMost most: Duration, _ isOver: () -> Bool) async {
    let deadline = MonotonicClock.now() + most
    while !isOver(), MonotonicClock.now() < deadline {
      try? await Task.sleep(for: .milliseconds(5))
    }
  }

  private func agentLaunch(_ configuration: NodeConfiguration) -> AgentLaunch {
    let nixlPath = transport.nixlPath
    // Not where it points: what is there may be another version by the time of a later start.
    return AgentLaunch(program: "/proc/self/exe") { name, ranks in
      ["agent", "--name", name, "--ranks", "\(ranks)", "--run-dir", configuration.directory]
        + (nixlPath.map { ["--nixl-path", $0] } ?? [])
    }
  }

  private func lingering(_ node: Node) -> (@Sendable () -> Bool)? {
    guard let linger else { return nil }
    let lingering = Guarded(
      Lingering(.nanoseconds(Int64(linger * 1e9)), first: Limits().storeAttachMax))
    return {
      let (engines, readers) = node.look { ($0.engineCount, $0.readerCount) }
      return lingering.withLock {
        $0.isOver(engines: engines, readers: readers, at: MonotonicClock.now())
      }
    }
  }

  private static func say(_ line: String) {
    try? FileHandle.standardError.write(contentsOf: Data("remote-g2: \(line)\n".utf8))
  }

  /// Where members connect: the port after the one that is written.
  ///
  /// - Parameter mayBeAny: Port 0 is possible, and stays 0.
  static func address(_ text: String, flag: String, mayBeAny: Bool = false) -> StreamAddress {
    let place = halves(text, flag: flag, ports: (mayBeAny ? 0 : 1)...65534)
    return StreamAddress(host: place.host, port: place.port == 0 ? 0 : place.port + 1)
  }

  private static func halves(
    _ text: String, flag: String, ports: ClosedRange<Int>
  ) -> HostAndPort {
    let place = hostAndPort(text, flag: flag, ports: ports)
    TransportOptions.check(
      host: place.host, port: place.port, flag: flag, mayBeIPv6: flag != "--direct")
    return place
  }

  private static func hostAndPort(
    _ text: String, flag: String, ports: ClosedRange<Int>
  ) -> HostAndPort {
    guard let place = HostAndPort(text), ports.contains(place.port) else {
      fail("\(flag) \(text) is not HOST:PORT, e.g. 127.0.0.1:7001 or [::1]:7001")
    }
    return place
  }

  /// Members whose addresses are written, and what is to be asked about others.
  private func toldMembers() -> (
    fixed: [(name: PeerName, address: StreamAddress)], asked: [MemberLookup.Question]
  ) {
    var fixed: [(name: PeerName, address: StreamAddress)] = []
    var asked: [MemberLookup.Question] = []
    var names: Set<PeerName> = []
    for text in member {
      let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2 else { fail("--member \(text) is not NAME=HOST:PORT") }
      checkName(String(parts[0]))
      let other = PeerName(String(parts[0]))
      guard other.text != name, names.insert(other).inserted else {
        fail("--member \(text): the name \(other) is taken, and names are unique in a fleet")
      }
      let place = Self.hostAndPort(String(parts[1]), flag: "--member", ports: 1...65534)
      guard TransportOptions.isNumeric(place.host) else {
        asked.append(.member(other, place))
        continue
      }
      let address = Self.address(String(parts[1]), flag: "--member")
      guard !fixed.contains(where: { $0.address == address }) else {
        fail("--member \(text): another member has that address")
      }
      fixed.append((other, address))
    }
    guard names.count <= Limits().peersMax else {
      fail("\(names.count) members: at most \(Limits().peersMax) are possible")
    }
    for text in members where !text.hasPrefix(EtcdOptions.prefix) {
      guard let question = MemberLookup.Question(text) else {
        fail("--members \(text) is neither dns:HOST:PORT nor srv:NAME nor etcd:https://HOST:PORT")
      }
      asked.append(question)
    }
    return (fixed, asked)
  }

  private var groupNumber: UInt32? {
    guard let group else { return nil }
    if let number = UInt32(group) { return number }
    guard let entry = getgrnam(group) else { fail("--group \(group): there is no such group") }
    return entry.pointee.gr_gid
  }
}

import ArgumentParser
import Foundation
import NodeMetrics
import RemoteG2Core
import RemoteG2Node

struct NodeCommandLine: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "node",
    abstract: "Hold the prefix blocks of this host's engines, and share them with other nodes.",
    discussion: """
      One node serves all engines of a host: engines of one model share a pool, made when the first of \
      them attaches. Engines find it by its socket in the run directory. Other members are told what it \
      holds, and are sent blocks, on the port after that of --listen. On that of --listen itself \
      /metrics (for Prometheus) and /healthz are answered.
      """)

  @Option(help: "Unique in the fleet.") var name: String
  @Option(help: "Address for other members; they use the port after it.") var listen =
    "127.0.0.1:7001"
  @Option(
    help: ArgumentHelp(
      "Another member, by its name and what it was given as --listen; may be repeated.",
      valueName: "name=host:port"))
  var member: [String] = []
  @Option(help: "Bytes for all pools together, e.g. 512MiB or 4GiB.") var memory = "1GiB"
  @Option(help: "Folder for socket and lock.") var runDir: String?
  @Option(
    help: """
      A group, by name or number, whose members' engines may attach too; the run directory and the socket are \
      then the group's. Without it, only this user's and root's may.
      """)
  var group: String?
  @Flag(
    help: """
      Allow an address that is not loopback. Nothing authenticates or encrypts members yet: use it on \
      networks you trust only.
      """)
  var insecure = false

  func run() throws {
    checkName(name)
    let address = Self.address(listen, flag: "--listen")
    guard TransportOptions.isLoopback(address.host) || insecure else {
      fail(
        "--listen \(address.host) is not loopback: add --insecure if every machine on that network is "
          + "trusted")
    }
    let configuration = NodeConfiguration(
      name: PeerName(name), address: address, members: members(), memoryBytes: memoryBytes(),
      directory: runDirectory(runDir, group: groupNumber), group: groupNumber, log: { Self.say($0) }
    )
    signal(SIGPIPE, SIG_IGN)
    let node: Node
    do throws(NodeError) { node = try Node(configuration) } catch { fail("\(error)") }
    let metrics: MetricsServer
    do throws(MetricsServer.Failure) {
      metrics = try MetricsServer(
        host: address.host, port: address.port - 1, metrics: { node.look(\.report).metrics },
        hanging: { node.hanging })
    } catch {
      node.stop()
      fail("\(error); choose another --listen")
    }
    Self.say(
      "\(name) holds up to \(memory) at \(configuration.socketPath) and serves members at "
        + "\(address.host):\(node.port)")
    FileHandle.standardOutput.write(
      Data(
        "{\"event\":\"ready\",\"port\":\(node.port),\"incarnation\":\"\(node.incarnation)\"}\n".utf8
      ))
    Interruption.wait()
    metrics.stop()
    node.stop()
  }

  private static func say(_ line: String) {
    FileHandle.standardError.write(Data("remote-g2: \(line)\n".utf8))
  }

  /// Where members connect: the port after the one that is written.
  static func address(_ text: String, flag: String) -> StreamAddress {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let port = Int(parts[1]), (1...65534).contains(port) else {
      fail("\(flag) \(text) is not HOST:PORT, e.g. 127.0.0.1:7001")
    }
    TransportOptions.check(host: String(parts[0]), port: port)
    return StreamAddress(host: String(parts[0]), port: port + 1)
  }

  private func members() -> [(name: PeerName, address: StreamAddress)] {
    var found: [(name: PeerName, address: StreamAddress)] = []
    for text in member {
      let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2 else { fail("--member \(text) is not NAME=HOST:PORT") }
      checkName(String(parts[0]))
      let other = PeerName(String(parts[0]))
      guard other.text != name, !found.contains(where: { $0.name == other }) else {
        fail("--member \(text): the name \(other) is taken, and names are unique in a fleet")
      }
      let address = Self.address(String(parts[1]), flag: "--member")
      guard !found.contains(where: { $0.address == address }) else {
        fail("--member \(text): another member has that address")
      }
      found.append((other, address))
    }
    guard found.count <= Limits().peersMax else {
      fail("\(found.count) members: at most \(Limits().peersMax) are possible")
    }
    return found
  }

  private var groupNumber: UInt32? {
    guard let group else { return nil }
    if let number = UInt32(group) { return number }
    guard let entry = getgrnam(group) else { fail("--group \(group): there is no such group") }
    return entry.pointee.gr_gid
  }

  private func memoryBytes() -> Int {
    let units = ["KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40]
    let number = memory.prefix { $0.isNumber }
    guard let shift = units[String(memory.dropFirst(number.count))], let count = Int(number),
      count > 0, count < 1 << (46 - shift)
    else { fail("--memory \(memory) is not a size, e.g. 512MiB or 4GiB") }
    return count << shift
  }
}

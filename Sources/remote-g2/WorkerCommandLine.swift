import ArgumentParser
import Collectives
import Foundation
import KVConnector
import LlamaModel
import NIXL
import NIXLTransfer
import Processes
import RankGroups
import RemoteG2Core
import RemoteG2Runtime
import TransferRig
import WorkerConsole

/// `name=host:port`.
struct PeerArgument: ExpressibleByArgument {
  let address: PeerAddress

  init?(argument: String) {
    let halves = argument.split(separator: "=", maxSplits: 1)
    guard halves.count == 2, let colon = halves[1].lastIndex(of: ":"),
      let port = Int(halves[1][halves[1].index(after: colon)...]), (1...65535).contains(port)
    else { return nil }
    address = PeerAddress(
      name: PeerName(String(halves[0])), host: String(halves[1][..<colon]), port: port)
  }
}

struct WorkerCommandLine: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker",
    abstract: "An engine and its store, driven by JSON lines on standard input.",
    discussion: """
      Commands: {"cmd":"generate","id":1,"prompt":[tokens],"max":64,"hint":{"v":1,"store":"A"}}, \
      cancel, drop, save, pace, renewals, ttl, proof, fault, trace, audit, stop. Every command has an id \
      that comes back with its answer. The worker ends when its input ends; its store lingers.
      """)

  @Option(help: "Unique in the fleet.") var name: String
  @Option(help: "A GGUF file: Llama architecture, F32, F16, Q4_1 or Q8_0 tensors.")
  var model: String?
  @Option(help: "Numeric address the store listens on.") var host = "127.0.0.1"
  @Option(help: "The store's port for peers; not needed beside a node.") var port: Int?
  @Option(
    help: """
      Name of the node of this host, found in the run directory: the worker loads from it and saves to it, \
      and has neither a store of its own nor peers.
      """)
  var node: String?
  @Option(help: "Folder for the store's socket, lock and log.") var runDir: String?
  @Option(name: .customLong("peer"), help: "A member of the fleet, as name=host:port. Repeat it.")
  var peers: [PeerArgument] = []
  @Option(name: .customLong("g1-blocks"), help: "Blocks of the engine's own pool.")
  var g1Blocks = 256
  @Option(help: "Blocks of the store's pool.") var slots = 256
  @Option(help: "Threads that compute.") var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(
    help: """
      Tensor-parallel ranks. More than one are started with mpirun, each with its share of --threads.
      """)
  var tp = 1
  @Option(help: "Seconds the store goes on without its engine.") var linger = 600.0
  @Option(help: "Tokens one step computes at most.") var stepTokens = 128
  @Option(help: "When landed blocks are digested: off, onFailure or always.")
  var digests = "onFailure"
  @Option(help: "What a failed load does to its request: recompute or fail.")
  var loadFailure = "recompute"
  @Option(
    help: """
      When a hinted prefix is pulled: byCost (when it looks cheaper than computing it) or always (to \
      show pulls that would not pay).
      """)
  var pull = "byCost"
  @Flag(help: "Obey the command `fault`, which lets transfers go wrong: for demonstrations.")
  var inject = false
  @OptionGroup var transport: TransportOptions
  @OptionGroup var tls: TLSOptions

  func run() async throws {
    checkName(name)
    let port = storePort()
    TransportOptions.check(host: host, port: port)
    checkRange("--g1-blocks", g1Blocks, 2...(1 << 20))
    checkRange("--slots", slots, 1...(1 << 20))
    checkRange("--threads", threads, 1...256)
    checkRange("--tp", tp, 1...64)
    checkRange("--step-tokens", stepTokens, 1...4096)
    checkRange("--peer", peers.count, 0...Limits().peersMax)
    guard linger >= 0, linger <= 86_400 else {
      fail("--linger \(linger) is not 0 to 86400 seconds")
    }
    guard let policy = LoadFailurePolicy(rawValue: loadFailure) else {
      fail("--load-failure '\(loadFailure)' is not one of: recompute, fail")
    }
    guard let digestPolicy = ProofPolicy(rawValue: digests) else {
      fail("--digests '\(digests)' is not one of: off, onFailure, always")
    }
    guard ["byCost", "always"].contains(pull) else {
      fail("--pull '\(pull)' is not one of: byCost, always")
    }
    for peer in peers {
      checkName(peer.address.name.text)
      TransportOptions.check(host: peer.address.host, port: peer.address.port)
    }
    checkMembers(port)
    let pulse = GroupPulse()
    let watchdog =
      tp > 1 && GroupLauncher.isRank
      ? GroupWatchdog(
        pulse, rank: GroupLauncher.rankName, startMax: Limits().groupStartMax,
        silenceMax: Limits().groupSilenceMax) : nil
    let group = rankGroup(pulse)
    transport.prepare(host: host)
    let discovery = node == nil ? NIXLDiscovery(explicitPath: transport.nixlPath) : nil
    if let discovery, discovery.library == nil {
      FileHandle.standardError.write(
        Data("remote-g2: not pulling from peers. \(discovery.explanation)\n".utf8))
    }
    let limits = Limits { $0.stepTokensMax = stepTokens }
    let configuration = WorkerConfiguration(
      name: name, modelPath: ModelLocation.find(model), host: host, port: port,
      directory: runDirectory(runDir), peers: peers.map(\.address), blockCount: g1Blocks,
      slotCount: slots, threads: max(1, threads / tp), linger: .nanoseconds(Int64(linger * 1e9)),
      nixlPath: transport.nixlPath, isInsecure: transport.insecure, certificates: tls.ofControl,
      proof: digestPolicy, policy: policy, pullsByCost: pull == "byCost",
      node: node.map { "\(runDirectory(runDir))/\($0).node" }, limits: limits)
    do throws(WorkerError) {
      if let group, group.rank > 0 {
        try RankFollower.run(
          configuration, library: discovery?.library, group: group, watchdog: watchdog,
          rigging: TransferRig.rigging(breaks: inject) { _ in })
      } else {
        try await WorkerConsole(limits: limits, breaks: inject).run(
          configuration, library: discovery?.library, group: group, watchdog: watchdog)
      }
    } catch { fail("\(error)") }
    NIXLLibrary.endProcess(0)
  }

  /// Where the own store listens; beside a node nobody does.
  private func storePort() -> Int {
    if let node {
      checkName(node)
      guard port == nil, peers.isEmpty else {
        fail("--node \(node): the node has the members and the ports; leave out --port and --peer")
      }
      return 0
    }
    guard let port else { fail("--port is missing: the own store listens there; or name a --node") }
    checkRange("--port", port, 1...65535)
    return port
  }

  /// Two members of one name, or behind one address, could not be told apart when one of them dies.
  private func checkMembers(_ port: Int) {
    var names: Set<String> = [name]
    var addresses: Set<String> = ["\(host):\(port)"]
    for peer in peers.map(\.address) {
      guard names.insert(peer.name.text).inserted else {
        fail("--peer \(peer.name) is there twice, or is this worker's own --name")
      }
      let address = "\(peer.host):\(peer.port)"
      guard addresses.insert(address).inserted else {
        fail("--peer \(peer.name)=\(address): another member has that address already")
      }
    }
  }

  /// This process's group, when there is more than one rank. Started alone, it becomes that group.
  private func rankGroup(_ pulse: GroupPulse) -> MPIGroup? {
    guard tp > 1 else { return nil }
    if !GroupLauncher.isRank {
      RankOption.check(tp, model: ModelLocation.find(model))
      fail(
        "\(GroupLauncher.becomeGroup(ranks: tp, arguments: Array(CommandLine.arguments.dropFirst())))"
      )
    }
    do throws(MPIError) { return try MPIGroup(expecting: tp, pulse: pulse) } catch {
      fail("\(error)")
    }
  }
}

/// What `--tp` needs: a model that splits, and Open MPI.
enum RankOption {
  static func check(_ ranks: Int, model path: String) {
    guard ranks > 1 else { return }
    do throws(ModelError) {
      let possible = try LlamaConfiguration(GGUFFile(path: path)).possibleRankCounts
      guard possible.contains(ranks) else {
        throw .indivisible(path: path, ranks: ranks, possible: possible)
      }
    } catch { fail("--tp \(ranks): \(error)") }
    if let missing { fail("--tp \(ranks): \(missing)") }
  }

  /// What of Open MPI is not here.
  static var missing: MPIError? {
    do throws(MPIError) {
      _ = try MPIGroup.find()
      guard FileManager.default.isExecutableFile(atPath: GroupLauncher.program) else {
        return .library("there is no \(GroupLauncher.program)")
      }
      return nil
    } catch { return error }
  }
}

/// Where the model is when nobody names one: unpacked by scripts/setup.
enum ModelLocation {
  static func find(_ named: String?) -> String {
    if let named { return named }
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    var folders = [FileManager.default.currentDirectoryPath]
    var folder = URL(fileURLWithPath: "/proc/self/exe".resolved)
    for _ in 0..<6 {
      folder = folder.deletingLastPathComponent()
      folders.append(folder.path)
    }
    for folder in folders {
      let path = "\(folder)/.deps/model/\(file)"
      if FileManager.default.fileExists(atPath: path) { return path }
    }
    fail("no model: run scripts/setup, or name a GGUF file with --model")
  }
}

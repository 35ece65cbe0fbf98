import ArgumentParser
import Collectives
import Foundation
import Linear
import LlamaModel
import NIXL
import NIXLTransfer
import Processes
import RemoteG2Core
import RemoteG2Node
import RemoteG2Runtime

struct Doctor: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "What this machine has, what is missing, and what to do about it.")

  @Option(help: "The model to check.") var model: String?
  @Option(
    help: ArgumentHelp(
      """
      Another node: is it reachable, do its engines' blocks fit ours, how fast does it answer, and does a block \
      come right; may be repeated.
      """, valueName: "name=host:port"))
  var member: [String] = []
  @OptionGroup var tls: TLSOptions
  @Option(
    help: ArgumentHelp(
      "A vLLM configuration, as JSON or as a file: what would keep that server from sharing.",
      valueName: "file|json"))
  var engineConfig: String?
  @Option(help: "This host's node, to compare with; not needed where there is one.") var node:
    String?
  @Option(help: "Folder of this host's node's socket.") var runDir: String?
  @OptionGroup var transport: TransportOptions

  func run() async throws {
    if engineConfig != nil || !member.isEmpty { return try checkFleet() }
    transport.prepare(host: "127.0.0.1")
    var isWell = true
    func line(_ name: String, _ text: String) {
      print("\(name.padding(toLength: 14, withPad: " ", startingAt: 0)) \(text)")
    }
    func bad(_ name: String, _ text: String) {
      isWell = false
      line(name, "MISSING: \(text)")
    }
    let cpu =
      (ProcFile.text("/proc/cpuinfo") ?? "").split(separator: "\n")
      .first { $0.hasPrefix("model name") }?.split(separator: ":").last ?? "unknown"
    line(
      "cpu",
      "\(cpu.trimmingCharacters(in: .whitespaces)), "
        + "\(ProcessInfo.processInfo.activeProcessorCount) cores")

    let team = ThreadTeam(threads: min(2, ProcessInfo.processInfo.activeProcessorCount))
    do throws(LinearSelfTest.Failure) {
      try LinearSelfTest.run(shapes: [(576, 576), (192, 576), (64, 64)], team: team)
      line("matrix kernels", "own, \(Kernels.kind); batch-invariant by bits: self-test passed")
    } catch { bad("matrix kernels", "\(error)") }

    let discovery = NIXLDiscovery(explicitPath: transport.nixlPath)
    for candidate in discovery.candidates {
      line(
        candidate.problem == nil ? "nixl" : "nixl (unusable)",
        "\(candidate.path) (\(candidate.origin))\(candidate.problem.map { ": \($0)" } ?? "")")
    }
    if let library = discovery.library {
      line("nixl version", Self.version(of: library.path) ?? "unknown")
      do throws(NIXLError) {
        let agent = try Agent(name: "doctor", hasProgressThread: false, library: library)
        line(
          "nixl agent",
          "made, with a UCX backend and \(try agent.metadata().count) bytes of metadata")
      } catch {
        bad("nixl agent", "\(error): check UCX_TLS and UCX_NET_DEVICES")
      }
      let environment = ProcessInfo.processInfo.environment
      line(
        "ucx",
        "UCX_TLS=\(environment["UCX_TLS"] ?? transport.ucxTls ?? "(all: cma on one host)"), "
          + "UCX_NET_DEVICES=lo")
      line("ucx modules", Self.transportModules(of: library.path))
    } else {
      bad("nixl", discovery.explanation)
    }

    do throws(MPIError) {
      line("open mpi", "\(try MPIGroup.find()), for --tp")
    } catch { line("open mpi", "not here, and only --tp needs it. \(error)") }

    let path = ModelLocation.find(model)
    do throws(ModelError) {
      let file = try GGUFFile(path: path)
      let configuration = try LlamaConfiguration(file)
      _ = try Tokenizer(file)
      line(
        "model",
        "\(path): \(configuration.layerCount) layers, "
          + "\(configuration.headCount)/\(configuration.kvHeadCount) heads of "
          + "\(configuration.headSize), \(configuration.vocabularySize) tokens, --tp "
          + configuration.possibleRankCounts.map(String.init).joined(separator: " or "))
    } catch { bad("model", "\(error)") }
    print(isWell ? "everything is here: try `remote-g2 run`" : "something is missing: see above")
    NIXLLibrary.endProcess(isWell ? 0 : 1)
  }

  /// What was asked about, and nothing else: neither needs NIXL, nor a model.
  private func checkFleet() throws {
    var isWell = true
    if let engineConfig { isWell = Self.check(engine: engineConfig) && isWell }
    var own: NodeReport?
    if !member.isEmpty, let path = NodeSocket.find(name: node, in: runDirectoryPath(runDir)) {
      own = try? NodeQuestion.report(of: path)
    }
    let keeper = tls.keeper
    for text in member {
      isWell = Self.check(member: text, own: own, keeper: keeper) && isWell
    }
    if !isWell { throw ExitCode(1) }
  }

  /// UCX keeps tcp and shared memory in its core, and every other transport in a module of its own.
  private static func transportModules(of library: String) -> String {
    let root = URL(fileURLWithPath: library).deletingLastPathComponent().deletingLastPathComponent()
    let folders = ((try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? [])
      .filter { $0.hasSuffix(".libs") }.map { root.path + "/" + $0 + "/ucx" }
    let modules = folders.flatMap { ProcFile.names(in: $0) }
      .filter { $0.hasPrefix("libuct_") }
      .map { String($0.dropFirst("libuct_".count).prefix { $0 != "." }) }
    let names = Set(modules).sorted()
    return "tcp, self, shared memory"
      + (names.isEmpty
        ? "; no modules found beside the library" : " and " + names.joined(separator: ", "))
  }

  /// The wheel says its version in the name of its metadata folder.
  private static func version(of library: String) -> String? {
    let root = URL(fileURLWithPath: library).deletingLastPathComponent().deletingLastPathComponent()
    let names = (try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? []
    return names.first { $0.hasPrefix("nixl") && $0.hasSuffix(".dist-info") }
      .map { String($0.dropLast(".dist-info".count)) }
  }
}

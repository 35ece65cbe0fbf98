import ArgumentParser
import Foundation
import NIXL
import NIXLTransfer
import PoolAgents

/// Started by a node, once for each of its pools.
struct AgentCommandLine: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "agent",
    abstract: "Let peers read a node's pool over NIXL. Started by its node.", shouldDisplay: false)

  @Option(help: "Of the NIXL agent: unique for ever.") var name: String
  @Option(help: "Pools that the node is going to send.") var ranks = 1
  @Option(help: "The node's, by which its processes are found.") var runDir: String?
  @Flag(help: "Only say whether NIXL can be loaded.") var probe = false
  @Option(help: "As its node's.") var nixlPath: String?

  func run() throws {
    checkName(name)
    checkRange("--ranks", ranks, 1...64)
    // UCX's environment is the node's.
    setenv("SWIFT_BACKTRACE", "enable=no", 0)
    signal(SIGPIPE, SIG_IGN)
    let discovery = NIXLDiscovery(explicitPath: nixlPath)
    guard !probe else { NIXLLibrary.endProcess(discovery.library == nil ? 1 : 0) }
    guard let library = discovery.library else {
      AgentProcess.refuse(over: STDIN_FILENO, because: discovery.explanation)
      NIXLLibrary.endProcess(1)
    }
    do throws(AgentError) {
      try AgentProcess.run(over: STDIN_FILENO, name: name, ranks: ranks, library: library)
    } catch { fail("\(error)") }
    NIXLLibrary.endProcess(0)
  }
}

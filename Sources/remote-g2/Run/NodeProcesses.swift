import Foundation
import Processes
import RemoteG2Core
import RemoteG2Node
import RemoteG2Runtime

/// A worker's node, and the agent that peers read its pool from: what a host loses, or stops, at once.
struct NodeProcesses {
  let node: ChildProcess
  let agent: ChildProcess

  /// The node first: one that lives starts another agent.
  func signal(_ number: Int32) {
    node.signal(number)
    agent.signal(number)
  }

  var isStopped: Bool { node.stateLetter == "T" && agent.stateLetter == "T" }

  func hasEnded(waiting milliseconds: Int32) -> Bool {
    node.hasEnded(waiting: milliseconds) && agent.hasEnded(waiting: milliseconds)
  }
}

extension Fleet {
  /// What peers call a worker's pool now: the name of the agent that serves it. Nil while none does.
  func servedAs(_ name: String) -> String? {
    let path = "\(settings.directory)/\(name).own"
    guard let report = try? NodeQuestion.report(of: path) else { return nil }
    return report.pools.compactMap(\.agent).first { $0.state == "serving" }?.name
  }

  func nodeProcesses(_ name: String) throws -> NodeProcesses {
    guard let pid = try workers[name]?.audit().storePID,
      let node = ChildProcess(running: Int32(pid))
    else { throw SceneFailure("\(name) has no node") }
    return NodeProcesses(node: node, agent: try agentProcess(name))
  }

  /// Waits for it where it is just being started.
  func agentProcess(_ name: String) throws -> ChildProcess {
    var found: ChildProcess?
    try poll("\(name)'s node has an agent", seconds: 30) {
      guard let id = servedAs(name) else { return false }
      found = members().first { pid in
        let words = (ProcFile.text("/proc/\(pid)/cmdline") ?? "").split(separator: "\0")
        return words.dropFirst().first == "agent" && words.contains(Substring(id))
      }.flatMap { ChildProcess(running: $0) }
      return found != nil
    }
    guard let found else { throw SceneFailure("\(name)'s node has no agent") }
    return found
  }
}

import ArgumentParser
import Foundation
import RemoteG2Core
import RemoteG2Node

struct StatusCommandLine: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "What a node of this host holds, whom it knows, what it does.")

  @Option(help: "Of the node; not needed where there is one.") var name: String?
  @Option(help: "Folder of the node's socket.") var runDir: String?
  @Flag(help: "Everything, as one JSON object.") var json = false

  func run() throws {
    let path = socketPath()
    let report: NodeReport
    do throws(NodeQuestion.Failure) { report = try NodeQuestion.report(of: path) } catch {
      fail("\(error)")
    }
    guard !json else {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
      print(String(decoding: try encoder.encode(report), as: UTF8.self))
      return
    }
    Self.show(report)
  }

  private func socketPath() -> String {
    let directory = runDirectoryPath(runDir)
    if let name { checkName(name) }
    guard let path = NodeSocket.find(name: name, in: directory) else {
      let found = NodeSocket.names(in: directory)
      fail(
        found.isEmpty
          ? "no node's socket is in \(directory): start one with `remote-g2 node`"
          : "several nodes are in \(directory): name one with --name ("
            + found.map { String($0.dropLast(5)) }.joined(separator: ", ") + ")")
    }
    return path
  }

  private static func show(_ report: NodeReport) {
    print("node \(report.name) (\(report.node.prefix(8))), memory \(report.memoryBytes >> 20) MiB")
    if let adoption = report.adoption, adoption.life > 1 {
      print(
        "  process \(adoption.life) of this node; of the one before it has \(adoption.adopted) blocks, "
          + "\(adoption.waiting) are still looked at, \(adoption.refused) were not what they should be"
      )
    }
    for pool in report.pools {
      print(
        "  pool of \(pool.slots) blocks of \(pool.ranks) × \(pool.blockBytes) bytes for \(pool.engines) "
          + "engines: \(pool.sealed) sealed, \(pool.free) free, \(pool.pinned) pinned, \(pool.staged) staged"
      )
      if let agent = pool.agent { print("    for peers that read it over NIXL: \(agent.state)") }
      print("    model \(pool.model); \(pool.layout); \(pool.hashScheme); \(pool.numerics)")
    }
    if report.pools.isEmpty { print("  no engine has attached yet") }
    for member in report.members {
      let speed = member.bytesPerSecond.map { String(format: ", %.2f GB/s", $0 / 1e9) } ?? ""
      let known = member.saidName ?? member.name
      let name = known == member.name ? known : "\(known) at \(member.name)"
      print("  member \(name): \(member.standing), announces \(member.keys) blocks\(speed)")
      if let mismatch = member.mismatch { print("    cannot share: \(mismatch)") }
    }
    print(
      "  \(report.blocksAnswered) blocks given to engines, \(report.blocksPulled) of them pulled "
        + "(\(report.bytesPulled >> 20) MiB), \(report.bytesServed >> 20) MiB sent to members")
    for (reason, count) in report.shortfalls.sorted(by: { $0.key < $1.key }) {
      print("  not pulled, \(reason): \(count)")
    }
  }
}

/// Where a node of this host listens for engines.
enum NodeSocket {
  /// - Returns: Nil where none has the name, or, without one, where there is none, or there are several.
  static func find(name: String?, in directory: String) -> String? {
    if let name { return "\(directory)/\(name).node" }
    let found = names(in: directory)
    return found.count == 1 ? "\(directory)/\(found[0])" : nil
  }

  static func names(in directory: String) -> [String] {
    ((try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [])
      .filter { $0.hasSuffix(".node") }.sorted()
  }
}

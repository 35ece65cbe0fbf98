import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Node
import RemoteG2Runtime

/// A node as the demonstrations start it: a child process, ready when it listens.
final class NodeProcess {
  let name: String
  let process: ChildProcess
  private let socketPath: String

  /// Blocks its thread until the node listens.
  ///
  /// - Parameters:
  ///   - members: The other nodes, by name, with the port that each was given as `--listen`.
  ///   - isKept: ``process`` only keeps its memory, and another one serves from it. Otherwise it is all of the node.
  init(
    _ name: String, port: Int, members: [String: Int], memory: String, directory: String,
    isKept: Bool = false
  ) throws {
    self.name = name
    socketPath = "\(directory)/\(name).node"
    let log = open(
      "\(directory)/node-\(name).log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)
    defer { if log >= 0 { close(log) } }
    var arguments = [
      "node", "--name", name, "--listen", "127.0.0.1:\(port)", "--memory", memory,
      "--run-dir",
      directory,
    ]
    if !isKept { arguments.append("--no-keeper") }
    for (other, port) in members.sorted(by: { $0.key < $1.key }) {
      arguments += ["--member", "\(other)=127.0.0.1:\(port)"]
    }
    process = try ChildProcess(
      "/proc/self/exe".resolved, arguments, error: log >= 0 ? log : nil)
    let deadline = MonotonicClock.now() + .seconds(10)
    while (try? NodeQuestion.report(of: socketPath)) == nil {
      guard !process.hasEnded(waiting: 10), MonotonicClock.now() < deadline else {
        throw SceneFailure("node \(name) does not start; its log is node-\(name).log")
      }
    }
  }

  func report() throws -> NodeReport {
    do throws(NodeQuestion.Failure) { return try NodeQuestion.report(of: socketPath) } catch {
      throw SceneFailure("node \(name): \(error)")
    }
  }

  /// Kills the process that serves for a keeper.
  ///
  /// - Returns: Once another one does, whether it has blocks of the one before.
  func killServing() throws -> Bool {
    guard let serving = ProcFile.children(of: process.pid).first,
      let life = try report().adoption?.life
    else { throw SceneFailure("node \(name) is not served by a process of its own") }
    kill(serving, SIGKILL)
    let deadline = MonotonicClock.now() + .seconds(10)
    while MonotonicClock.now() < deadline {
      if let now = try? report().adoption, now.life > life, now.waiting == 0 {
        return now.life == life + 1 && now.adopted > 0 && now.refused == 0
      }
      usleep(2_000)
    }
    throw SceneFailure("node \(name) does not come back; its log is node-\(name).log")
  }

  /// What it holds for anybody, in words; nil when that is nothing.
  func held() throws -> String? {
    let report = try report()
    var found: [(String, Int)] = [
      ("questions", report.waiting), ("pulls", report.pulling), ("answers", report.serving),
      ("pins of answers", report.servingPins),
    ]
    for pool in report.pools {
      found += [
        ("pins", pool.pinned), ("leases", pool.leases), ("writing", pool.writing),
        ("staged", pool.staged),
      ]
    }
    let held = found.filter { $0.1 != 0 }.map { "\($0.1) \($0.0)" }
    return held.isEmpty ? nil : held.joined(separator: ", ")
  }

  func stop() {
    process.signal(SIGCONT)
    process.signal(SIGTERM)
    if !process.hasEnded(waiting: 3_000) { process.signal(SIGKILL) }
    _ = process.hasEnded(waiting: 1_000)
  }
}

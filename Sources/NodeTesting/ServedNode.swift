internal import Foundation
internal import OSThreads
package import Processes
package import RemoteG2Core
internal import RemoteG2Node

/// A node as users start it: a keeper, and the process that serves for it.
package final class ServedNode: Sendable {
  package struct Failure: Error, CustomStringConvertible {
    package let description: String
  }

  package let folder: String
  package let keeper: ChildProcess
  /// Where it serves members.
  package let port: Int
  package var socket: String { "\(folder)/a.node" }

  /// Blocks its thread until it serves.
  package init(program: String, memory: String) throws {
    let folder =
      FileManager.default.temporaryDirectory.path + "/rg2k-\(UUID().uuidString.prefix(8))"
    self.folder = folder
    try FileManager.default.createDirectory(
      atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    let log = open("\(folder)/log", O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)
    let output = Pipe()
    defer { close(log) }
    keeper = try ChildProcess(
      program,
      [
        "node", "--name", "a", "--listen", "127.0.0.1:0", "--memory", memory, "--run-dir", folder,
      ], output: output.fileHandleForWriting.fileDescriptor, error: log)
    try output.fileHandleForWriting.close()
    var lines = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 4096)
    let line = lines.next()
    // Nobody reads what the next ones say.
    try output.fileHandleForReading.close()
    guard case .text(let ready)? = line,
      let values = try? JSONSerialization.jsonObject(with: Data(ready)) as? [String: Any],
      let port = values["port"] as? Int
    else {
      keeper.signal(SIGKILL)
      throw Failure(description: "the node did not start: \(Self.text("\(folder)/log"))")
    }
    self.port = port
  }

  private static func text(_ path: String) -> String {
    (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
  }

  package var log: String { Self.text("\(folder)/log") }

  /// The process that serves now; nil: none does.
  package var serving: Int32? { ProcFile.children(of: keeper.pid).first }

  package var report: NodeReport? { try? NodeQuestion.report(of: socket) }

  /// Whether a member that connects now is welcomed.
  package func welcomes() -> Bool {
    guard let connection = Self.connected(port) else { return false }
    defer { close(connection) }
    var patience = timeval(tv_sec: 0, tv_usec: 200_000)
    setsockopt(
      connection, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    let hello = StreamCodec.encode(
      .hello(StreamHello(node: Incarnation(high: 9, low: 9), name: "probe", terms: nil)))
    guard send(connection, hello, hello.count, Int32(MSG_NOSIGNAL)) == hello.count else {
      return false
    }
    var byte: UInt8 = 0
    return recv(connection, &byte, 1, 0) == 1
  }

  /// A connection to a port of this host; nil: nobody listens.
  package static func connected(_ port: Int) -> Int32? {
    let connection = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let isConnected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(connection, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
    guard isConnected else {
      close(connection)
      return nil
    }
    return connection
  }

  /// As an operator ends it.
  ///
  /// - Returns: What it ended with; nil: it does not end.
  package func end() -> Int32? {
    keeper.signal(SIGTERM)
    let hasEnded = keeper.hasEnded(waiting: 15_000)
    if !hasEnded { keeper.signal(SIGKILL) }
    _ = keeper.hasEnded(waiting: 2_000)
    try? FileManager.default.removeItem(atPath: folder)
    return hasEnded ? keeper.exitStatus : nil
  }
}

import Foundation
import NodeTesting
import OSThreads
import Processes
import Testing

/// A registry of its own: the real one, on ports that are free.
final class Etcd {
  static let program = FileManager.default.currentDirectoryPath + "/.deps/etcd/etcd"

  private let folder: String
  private let peerPort: Int
  let port: Int
  private var process: ChildProcess?

  init() throws {
    folder = FileManager.default.temporaryDirectory.path + "/rg2etcd-\(UUID().uuidString.prefix(8))"
    (port, peerPort) = (try Self.freePort(), try Self.freePort())
    try start()
  }

  deinit {
    kill()
    try? FileManager.default.removeItem(atPath: folder)
  }

  var url: String { "http://127.0.0.1:\(port)" }

  func start() throws {
    let peer = "http://127.0.0.1:\(peerPort)"
    process = try ChildProcess(
      Self.program,
      [
        "--data-dir", folder, "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
        "default=\(peer)", "--heartbeat-interval", "100", "--election-timeout", "500",
      ])
    #expect(comes { self.answers }, "etcd does not listen")
  }

  func kill() {
    process?.signal(SIGKILL)
    _ = process?.hasEnded(waiting: 5000)
    process = nil
  }

  private var answers: Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    return Self.address(port) { connect(descriptor, $0, $1) } == 0
  }

  private static func freePort() throws -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    try #require(address(0) { bind(descriptor, $0, $1) } == 0)
    var bound = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    _ = withUnsafeMutablePointer(to: &bound) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
    }
    return Int(UInt16(bigEndian: bound.sin_port))
  }

  private static func address(
    _ port: Int, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
  ) -> Int32 {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
  }
}

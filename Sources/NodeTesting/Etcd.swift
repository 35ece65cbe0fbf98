internal import Foundation
internal import OSThreads
internal import Processes

/// A registry of its own: the real one, on ports that are free.
package final class Etcd {
  package struct Failure: Error, CustomStringConvertible { package let description: String }

  /// With them it speaks TLS only, and to nobody without a certificate of the same authority.
  package struct Certificates: Sendable {
    let own: CertificateForge.Made
    let authority: CertificateForge.Made

    package init(own: CertificateForge.Made, authority: CertificateForge.Made) {
      self.own = own
      self.authority = authority
    }
  }

  private static let program = FileManager.default.currentDirectoryPath + "/.deps/etcd/etcd"

  private let folder: String
  private let peerPort: Int
  private let port: Int
  private var process: ChildProcess?
  private var certificates: Certificates?

  package init() throws {
    folder = FileManager.default.temporaryDirectory.path + "/rg2etcd-\(UUID().uuidString.prefix(8))"
    (port, peerPort) = (try Self.freePort(), try Self.freePort())
    try start()
  }

  deinit {
    kill()
    try? FileManager.default.removeItem(atPath: folder)
  }

  package var url: String { "\(certificates == nil ? "http" : "https")://127.0.0.1:\(port)" }

  package func start() throws {
    let peer = "http://127.0.0.1:\(peerPort)"
    var arguments = [
      "--data-dir", folder, "--listen-client-urls", url, "--advertise-client-urls", url,
      "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
      "default=\(peer)", "--heartbeat-interval", "100", "--election-timeout", "500",
    ]
    if let certificates {
      arguments += [
        "--cert-file", certificates.own.certificate, "--key-file", certificates.own.key,
        "--trusted-ca-file", certificates.authority.certificate, "--client-cert-auth",
      ]
    }
    process = try ChildProcess(Self.program, arguments)
    guard comes({ answers }) else { throw Failure(description: "etcd does not listen") }
  }

  package func kill() {
    process?.signal(SIGKILL)
    _ = process?.hasEnded(waiting: 5000)
    process = nil
  }

  /// Goes on with what it has, and with these.
  package func restart(with certificates: Certificates) throws {
    kill()
    self.certificates = certificates
    try start()
  }

  /// From now on it asks for a password; this user's lets one read and write what begins so.
  package func askForPasswords(user: String, password: String, prefix: String) throws {
    func encoded(_ text: String) -> String { Data(text.utf8).base64EncodedString() }
    var end = Array(prefix.utf8)
    end[end.count - 1] += 1
    let range = Data(end).base64EncodedString()
    for (path, body) in [
      ("user/add", #"{"name":"root","password":"root"}"#),
      ("role/add", #"{"name":"root"}"#),
      ("user/grant", #"{"user":"root","role":"root"}"#),
      ("user/add", #"{"name":"\#(user)","password":"\#(password)"}"#),
      ("role/add", #"{"name":"members"}"#),
      (
        "role/grant",
        #"{"name":"members","perm":{"permType":"READWRITE","key":"\#(encoded(prefix))","range_end":"\#(range)"}}"#
      ),
      ("user/grant", #"{"user":"\#(user)","role":"members"}"#),
      ("enable", "{}"),
    ] { try post("/v3/auth/\(path)", body) }
  }

  private func post(_ path: String, _ body: String) throws {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var most = timeval(tv_sec: 10, tv_usec: 0)
    setsockopt(
      descriptor, SOL_SOCKET, SO_RCVTIMEO, &most, socklen_t(MemoryLayout<timeval>.size))
    guard Self.address(port, { connect(descriptor, $0, $1) }) == 0 else {
      throw Failure(description: "etcd does not listen")
    }
    let text =
      "POST \(path) HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: "
      + "\(body.utf8.count)\r\n\r\n\(body)"
    let sent = text.utf8.withContiguousStorageIfAvailable {
      write(descriptor, $0.baseAddress, $0.count)
    }
    guard sent == text.utf8.count else { throw Failure(description: "\(path) is not sent") }
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 4096)
    while case let count = read(descriptor, &buffer, buffer.count), count > 0 {
      answer += buffer[..<count]
    }
    let words = String(decoding: answer, as: UTF8.self)
    guard words.hasPrefix("HTTP/1.1 200") else { throw Failure(description: "\(path): \(words)") }
  }

  private var answers: Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    return Self.address(port) { connect(descriptor, $0, $1) } == 0
  }

  private static func freePort() throws -> Int {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var bound = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    guard address(0, { bind(descriptor, $0, $1) }) == 0,
      withUnsafeMutablePointer(
        to: &bound,
        {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            getsockname(descriptor, $0, &length)
          }
        }) == 0
    else { throw Failure(description: "no port is free") }
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

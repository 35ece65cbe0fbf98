import Foundation
import Processes
import RemoteG2Core
import RemoteG2Runtime

/// Two network namespaces of this process's own, joined by a pair of virtual interfaces that can be
/// cut and slowed down. Gone when it is removed; needs root and iproute2.
final class Link: @unchecked Sendable {
  // @unchecked: its name never changes; what it names is the kernel's.
  private let tag: String
  private static let program = "/usr/sbin/ip"
  private static let shaper = "/usr/sbin/tc"

  struct Unavailable: Error, CustomStringConvertible {
    let description: String
  }

  init() throws {
    tag = "rg2c\(getpid() % 100_000)"
    guard geteuid() == 0 else { throw Unavailable(description: "that needs root") }
    for program in [Self.program, Self.shaper] where access(program, X_OK) != 0 {
      throw Unavailable(description: "\(program) is missing (apt install iproute2)")
    }
    do {
      for name in ["A", "B"] { try ip("netns", "add", space(name)) }
      try ip(
        "link", "add", device("A"), "type", "veth", "peer", "name", device("B"))
      for name in ["A", "B"] {
        try ip("link", "set", device(name), "netns", space(name))
        try ip("-n", space(name), "addr", "add", address(of: name) + "/24", "dev", device(name))
        try ip("-n", space(name), "link", "set", device(name), "up")
        try ip("-n", space(name), "link", "set", "lo", "up")
      }
    } catch {
      remove()
      throw error
    }
  }

  private func space(_ name: String) -> String { tag + name.lowercased() }
  private func device(_ name: String) -> String { tag + name.lowercased() + "0" }
  func address(of name: String) -> String { name == "A" ? "10.99.8.1" : "10.99.8.2" }
  func wrapper(of name: String) -> [String] {
    [Self.program, "netns", "exec", space(name)]
  }
  func environment(of name: String) -> [String: String] { ["UCX_NET_DEVICES": device(name)] }

  /// Takes the link down, or up again.
  func set(up isUp: Bool) throws {
    try ip("-n", space("A"), "link", "set", device("A"), isUp ? "up" : "down")
  }

  /// Lets this many bits a second through; nil: all.
  func slow(bitsPerSecond: Int?) throws {
    for name in ["A", "B"] {
      if let bitsPerSecond {
        try run(
          Self.shaper,
          [
            "-n", space(name), "qdisc", "replace", "dev", device(name), "root", "tbf", "rate",
            "\(bitsPerSecond)bit", "burst", "32k", "latency", "200ms",
          ])
      } else {
        try run(
          Self.shaper, ["-n", space(name), "qdisc", "del", "dev", device(name), "root"])
      }
    }
  }

  func remove() {
    for name in ["A", "B"] { try? ip("netns", "del", space(name)) }
  }

  private func ip(_ arguments: String...) throws { try run(Self.program, arguments) }

  private func run(_ program: String, _ arguments: [String]) throws {
    let result = try ChildProcess.run(program, arguments, timeout: .seconds(5))
    guard result.status == 0 else {
      throw Unavailable(
        description: "\(program) \(arguments.joined(separator: " ")) failed: \(result.errors)")
    }
  }
}

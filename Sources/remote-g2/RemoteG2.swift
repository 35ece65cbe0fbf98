import ArgumentParser
import Foundation
import NIXL
import RemoteG2Core
import RemoteG2Runtime

@main
struct RemoteG2: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "remote-g2",
    abstract: "One prefix cache for a fleet of LLM servers.",
    discussion: """
      A replica that lacks a prompt's prefix reads its KV blocks out of a peer's host memory over \
      NVIDIA NIXL instead of computing them again. Whatever breaks while it tries, the request still \
      yields exactly the tokens it would have produced alone.

      Start with `remote-g2 run`: it shows that, on this machine, with a real model.
      """,
    version: "0.1.0",
    subcommands: [
      Run.self, FleetCommandLine.self, Sim.self, ReplayCommandLine.self, Chaos.self, Doctor.self,
      NodeCommandLine.self, StatusCommandLine.self, WorkerCommandLine.self, AgentCommandLine.self,
    ])
}

/// Ends the process the way one that used UCX must end, saying why on one line.
func fail(_ reason: String) -> Never {
  FileHandle.standardError.write(Data("remote-g2: \(reason)\n".utf8))
  NIXLLibrary.endProcess(1)
}

/// What every process that uses NIXL decides before it loads it.
struct TransportOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Path of libnixl_capi.so, or of the folder of an unpacked nixl wheel.",
      discussion: "Otherwise: NIXL_LIBRARY_PATH, .deps/, Python's site-packages, the system."))
  var nixlPath: String?

  @Option(
    help: ArgumentHelp(
      "UCX transports, e.g. 'tcp'; absent: UCX chooses.", valueName: "list"))
  var ucxTls: String?

  @Flag(
    help: """
      Allow an address that is not loopback. Nothing authenticates or encrypts peers yet: use it on \
      networks you trust only.
      """)
  var insecure = false

  /// Sets UCX's environment, which it reads when the library is loaded.
  func prepare(host: String) {
    if !Self.isLoopback(host) {
      guard insecure else {
        fail("\(host) is not loopback: add --insecure if every machine on that network is trusted")
      }
    } else {
      setenv("UCX_NET_DEVICES", "lo", 0)
    }
    if let ucxTls { setenv("UCX_TLS", ucxTls, 1) }
    // One warning line per failed connection would drown ours; errors still show.
    setenv("UCX_LOG_LEVEL", "error", 0)
    setenv("SWIFT_BACKTRACE", "enable=no", 0)
    // A peer or a parent that is gone is an error code, not a signal.
    signal(SIGPIPE, SIG_IGN)
  }

  static func isLoopback(_ host: String) -> Bool {
    var address = in_addr()
    guard inet_pton(AF_INET, host, &address) == 1 else { return isNumeric(host) && host == "::1" }
    return UInt32(bigEndian: address.s_addr) >> 24 == 127
  }

  /// Whether it is an address, of IPv4 or IPv6, and no name.
  static func isNumeric(_ host: String) -> Bool {
    var (four, six) = (in_addr(), in6_addr())
    return inet_pton(AF_INET, host, &four) == 1 || inet_pton(AF_INET6, host, &six) == 1
  }

  /// - Parameter mayBeIPv6: Control services of stores and what NIXL reads over are IPv4.
  static func check(host: String, port: Int, flag: String = "--host", mayBeIPv6: Bool = false) {
    guard isNumeric(host), mayBeIPv6 || !host.contains(":") else {
      fail(
        "\(flag) \(host) is not a numeric \(mayBeIPv6 ? "address" : "IPv4 address"), e.g. 127.0.0.1"
          + (mayBeIPv6 ? " or ::1" : ""))
    }
    guard !["0.0.0.0", "::"].contains(host) else {
      fail("\(flag) \(host) is a wildcard: peers need the address they can reach")
    }
    guard (0...65535).contains(port) else { fail("--port \(port) is not a port: 0 to 65535") }
  }
}

/// Where sockets, locks and logs of a user's stores are, whether it is there or not: for who only asks a node of it.
func runDirectoryPath(_ chosen: String?) -> String {
  let base = ProcessInfo.processInfo.environment["XDG_RUNTIME_DIR"] ?? "/tmp"
  return chosen ?? "\(base)/remote-g2-\(getuid())"
}

/// The same, to put something into it. Made private to that user; one that is there
/// must be, or whoever else may write it could plant what we would open.
///
/// - Parameter group: Whose members may reach what is in it; nil: nobody but this user.
func runDirectory(_ chosen: String?, group: UInt32? = nil) -> String {
  let wanted: mode_t = group == nil ? 0o700 : 0o750
  let path = runDirectoryPath(chosen)
  guard path.utf8.count < 80 else {
    fail("the run directory \(path) is too long for a socket's name: choose another with --run-dir")
  }
  var status = stat()
  if lstat(path, &status) != 0 {
    do {
      try FileManager.default.createDirectory(
        atPath: path, withIntermediateDirectories: true,
        attributes: [.posixPermissions: Int(wanted)])
    } catch {
      fail("cannot make the run directory \(path): choose another with --run-dir")
    }
    if let group { _ = chown(path, uid_t.max, group) }
    guard lstat(path, &status) == 0 else { fail("the run directory \(path) is gone") }
  }
  guard status.st_mode & S_IFMT == S_IFDIR else {
    fail("the run directory \(path) is no folder, or a link to one: choose another with --run-dir")
  }
  guard status.st_uid == geteuid(), status.st_mode & 0o777 == wanted,
    group == nil || status.st_gid == group
  else {
    let mode = String(status.st_mode & 0o777, radix: 8)
    let its = String(wanted, radix: 8)
    fail(
      "the run directory \(path) has mode \(mode) and belongs to user \(status.st_uid) and group "
        + "\(status.st_gid): it must be yours\(group.map { " and group \($0)'s" } ?? ""), with mode \(its) "
        + "(chmod \(its) \(path), or choose another with --run-dir)")
  }
  return path
}

/// A name that may be part of a file name and of an agent's name.
func checkName(_ name: String) {
  let allowed = name.utf8.allSatisfy {
    ($0 >= 0x30 && $0 <= 0x39) || ($0 >= 0x41 && $0 <= 0x5A) || ($0 >= 0x61 && $0 <= 0x7A)
      || $0 == 0x2D || $0 == 0x5F
  }
  guard allowed, (1...32).contains(name.utf8.count) else {
    fail("--name '\(name)' must be 1 to 32 letters, digits, '-' or '_'")
  }
}

/// A whole number from the command line, with what is possible said in the error.
func checkRange(_ flag: String, _ value: Int, _ range: ClosedRange<Int>) {
  guard range.contains(value) else {
    fail("\(flag) \(value) is not possible: \(range.lowerBound) to \(range.upperBound)")
  }
}

/// A size from the command line, e.g. 512MiB.
func byteCount(_ flag: String, _ text: String) -> Int {
  let units = ["B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40]
  let number = text.prefix { $0.isNumber }
  guard let shift = units[String(text.dropFirst(number.count))], let count = Int(number),
    count > 0, count < 1 << (46 - shift)
  else { fail("\(flag) \(text) is not a size, e.g. 512MiB or 4GiB") }
  return count << shift
}

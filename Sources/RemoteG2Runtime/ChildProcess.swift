internal import CLinuxShims
internal import Glibc

/// A process this one started, or found running, held by a descriptor so that its number cannot be
/// mistaken for another's.
package final class ChildProcess: @unchecked Sendable {
  // @unchecked: the numbers never change; the descriptor is closed once, in deinit.
  package let pid: Int32
  private let pidfd: Int32

  package struct SpawnError: Error, Sendable, CustomStringConvertible {
    package let program: String
    package let reason: String
    package var description: String { "cannot start \(program): \(reason)" }
  }

  /// Starts a program.
  ///
  /// - Parameters:
  ///   - environment: Added to this process's own.
  ///   - input, output, error: Descriptors; nil is /dev/null. They stay the caller's to close.
  ///   - hasOwnSession: It survives this process's terminal and group.
  package init(
    _ program: String, _ arguments: [String], environment: [String: String] = [:],
    input: Int32? = nil, output: Int32? = nil, error: Int32? = nil, hasOwnSession: Bool = false
  ) throws(SpawnError) {
    var variables: [String: String] = [:]
    var entry = environ
    while let text = entry.pointee {
      let pair = String(cString: text).split(separator: "=", maxSplits: 1)
      if pair.count == 2 { variables[String(pair[0])] = String(pair[1]) }
      entry += 1
    }
    variables.merge(environment) { $1 }
    let argumentList = ([program] + arguments).map { strdup($0) } + [nil]
    let environmentList = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
    defer { for text in argumentList + environmentList { free(text) } }
    let pid = clinux_spawn(
      program, argumentList, environmentList, input ?? -1, output ?? -1, error ?? -1,
      hasOwnSession ? 1 : 0)
    guard pid > 0 else {
      throw SpawnError(program: program, reason: String(cString: strerror(-pid)))
    }
    self.pid = pid
    pidfd = clinux_pidfd(pid)
  }

  /// Takes hold of a running process. Nil when there is none of that number.
  package init?(running pid: Int32) {
    let descriptor = clinux_pidfd(pid)
    guard pid > 1, descriptor >= 0 else { return nil }
    self.pid = pid
    pidfd = descriptor
  }

  deinit { if pidfd >= 0 { close(pidfd) } }

  /// Whether it has ended, waiting at most `milliseconds`. A child is reaped.
  package func hasEnded(waiting milliseconds: Int32 = 0) -> Bool {
    var entry = pollfd(fd: pidfd, events: Int16(POLLIN), revents: 0)
    guard poll(&entry, 1, milliseconds) == 1 else { return false }
    var status: Int32 = 0
    waitpid(pid, &status, WNOHANG)
    return true
  }

  package func signal(_ number: Int32) { _ = kill(pid, number) }

  /// The state letter in `/proc`, or nil when it is gone.
  package var stateLetter: Character? {
    ProcFile.text("/proc/\(pid)/stat").flatMap { text in
      text.lastIndex(of: ")").flatMap { text[$0...].dropFirst(2).first }
    }
  }
}

/// Small files of the kernel's.
package enum ProcFile {
  package static func text(_ path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
      let count = read(descriptor, &buffer, buffer.count)
      guard count > 0 else { break }
      bytes += buffer[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  package static func names(in directory: String) -> [String] {
    guard let handle = opendir(directory) else { return [] }
    defer { closedir(handle) }
    var names: [String] = []
    while let entry = readdir(handle) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }
}

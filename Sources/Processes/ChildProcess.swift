internal import CLinuxShims
internal import Glibc
internal import OSThreads
internal import RemoteG2Core
internal import Synchronization

/// A process this one started, or found running, held by a descriptor so that its number cannot be
/// mistaken for another's.
package final class ChildProcess: @unchecked Sendable {
  // @unchecked: the numbers never change; the descriptor is closed once, in deinit.
  package let pid: Int32
  private let pidfd: Int32
  private let status = Mutex<Int32?>(nil)
  /// Of a child that has ended and was seen to: 128 + n for signal n.
  package var exitStatus: Int32? { status.withLock { $0 } }

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
    let count = poll(&entry, 1, milliseconds)
    // Without a descriptor, for want of one, a child can still be waited for.
    guard count == 1 || pidfd < 0 else { return false }
    var raw: Int32 = 0
    let ended = waitpid(pid, &raw, WNOHANG)
    if pidfd < 0, ended == 0 { return false }
    if ended == pid {
      let code = Self.exitStatus(of: raw)
      status.withLock { $0 = code }
    }
    return true
  }

  private static func exitStatus(of raw: Int32) -> Int32 {
    raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + raw & 0x7F
  }

  /// Runs a program to its end, and returns its exit status (128 + n for signal n) with what it
  /// wrote to standard output and standard error. Blocks its thread.
  ///
  /// - Parameter timeout: After it the program is killed: its status is then 137.
  package static func run(
    _ program: String, _ arguments: [String], environment: [String: String] = [:],
    input: String = "", timeout: Duration
  ) throws(SpawnError) -> (status: Int32, output: String, errors: String) {
    let pipes = (0..<3).map { _ in
      var ends: [Int32] = [-1, -1]
      _ = clinux_pipe(&ends)
      return ends
    }
    let child: ChildProcess
    do throws(SpawnError) {
      child = try ChildProcess(
        program, arguments, environment: environment, input: pipes[0][0], output: pipes[1][1],
        error: pipes[2][1])
    } catch {
      for end in pipes.joined() { close(end) }
      throw error
    }
    for end in [pipes[0][0], pipes[1][1], pipes[2][1]] { close(end) }
    // Small enough for a pipe's buffer, so that writing it cannot wait for the child's output.
    let bytes = Array(input.utf8.prefix(60_000))
    _ = bytes.withUnsafeBytes { write(pipes[0][1], $0.baseAddress, $0.count) }
    close(pipes[0][1])
    let output = Drain(pipes[1][0])
    let errors = Drain(pipes[2][0])
    let deadline = MonotonicClock.now() + timeout
    // Its own children may hold the pipes open after it has ended: they are not waited for.
    if !child.waits(until: deadline) { child.signal(SIGKILL) }
    let outputText = output.finish(by: MonotonicClock.now() + Self.drainMax)
    let errorText = errors.finish(by: MonotonicClock.now() + Self.drainMax)
    var status: Int32 = 0
    while waitpid(child.pid, &status, 0) < 0, errno == EINTR {}
    return (exitStatus(of: status), outputText, errorText)
  }

  private static let drainMax: Duration = .seconds(1)

  /// Whether it ends before `deadline`. It stays to be reaped.
  private func waits(until deadline: LocalInstant) -> Bool {
    while true {
      let left = (deadline - MonotonicClock.now()).nanoseconds / 1_000_000
      var entry = pollfd(fd: pidfd, events: Int16(POLLIN), revents: 0)
      let count = poll(&entry, 1, Int32(clamping: max(0, left)))
      if count == 1 { return true }
      if count == 0 { return false }
    }
  }

  /// Empties a pipe on a thread of its own, so that neither of two pipes can fill up, and closes it.
  private final class Drain: Sendable {
    private let bytes = Mutex<(text: [UInt8], isAtEnd: Bool)>(([], false))
    private let bell = Doorbell()

    init(_ descriptor: Int32) {
      _ = OSThread.start("drain") { [self] in
        while let chunk = readSome(descriptor), !chunk.isEmpty {
          bytes.withLock { $0.text += chunk }
        }
        close(descriptor)
        bytes.withLock { $0.isAtEnd = true }
        bell.ring()
      }
    }

    /// What came until the pipe's end, or until `deadline`.
    func finish(by deadline: LocalInstant) -> String {
      if !bytes.withLock({ $0.isAtEnd }) { bell.wait(until: deadline) }
      return bytes.withLock { String(decoding: $0.text, as: UTF8.self) }
    }
  }

  package func signal(_ number: Int32) { _ = kill(pid, number) }

  /// The state letter in `/proc`, or nil when it is gone.
  package var stateLetter: Character? {
    ProcFile.text("/proc/\(pid)/stat").flatMap { text in
      text.lastIndex(of: ")").flatMap { text[$0...].dropFirst(2).first }
    }
  }
}

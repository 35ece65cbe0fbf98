import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Runtime
import WorkerConsole

/// What a scene cannot go on after.
struct SceneFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// One worker as the demonstration drives it: a child process, commands in, events out.
final class WorkerProcess {
  let name: String
  let process: ChildProcess
  private let input: FileHandle
  private let inbox: Mailbox<WorkerEvent>
  private let doorbell = Doorbell()
  private var pending: [WorkerEvent] = []
  private var isReady = false
  /// Every transfer moment since the last ``clearTrace()``.
  private(set) var trace: [ConsoleTransfer] = []
  private(set) var fetchEvents: [ConsoleFetch] = []
  /// By reason: how often the results of this process's requests named it.
  private(set) var reasonsTold: [String: Int] = [:]
  private var idNext: UInt64 = 1

  /// - Parameters:
  ///   - wrapper: A program that replaces itself by the worker, with its arguments.
  ///   - environment: Added to this process's own.
  init(
    name: String, arguments: [String], log: String, wrapper: [String] = [],
    environment: [String: String] = [:]
  ) throws {
    self.name = name
    let toChild = Pipe()
    let fromChild = Pipe()
    let log = open(log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0o600)
    defer { if log >= 0 { close(log) } }
    let command = wrapper + ["/proc/self/exe".resolved, "worker", "--name", name] + arguments
    process = try ChildProcess(
      command[0], Array(command.dropFirst()), environment: environment,
      input: toChild.fileHandleForReading.fileDescriptor,
      output: fromChild.fileHandleForWriting.fileDescriptor, error: log >= 0 ? log : nil)
    try toChild.fileHandleForReading.close()
    try fromChild.fileHandleForWriting.close()
    input = toChild.fileHandleForWriting
    inbox = Mailbox(ringing: doorbell)
    let (inbox, output) = (inbox, fromChild.fileHandleForReading)
    _ = OSThread.start("read-\(name)") {
      var reader = LineReader(output.fileDescriptor, bytesMax: 64 << 20)
      while let line = reader.next() {
        guard case .text(let bytes) = line,
          let event = try? JSONDecoder().decode(WorkerEvent.self, from: Data(bytes))
        else { continue }
        inbox.post(event)
      }
      withExtendedLifetime(output) {}
    }
  }

  // MARK: Events

  /// Takes in what the worker has written so far.
  func collect() {
    for event in inbox.drain() {
      switch event {
      case .transfer(let transfer): trace.append(transfer)
      case .fetch(let fetch): fetchEvents.append(fetch)
      case .ready: isReady = true
      case .result(_, let result):
        for reason in result.reasons { reasonsTold[reason, default: 0] += 1 }
        pending.append(event)
      case .done, .error, .audit: pending.append(event)
      }
    }
  }

  /// Waits until `check` gives a value, looking at every event as it comes.
  func wait<Value>(
    _ what: String, seconds: Double = 60, _ check: () throws -> Value?
  ) throws -> Value {
    let deadline = MonotonicClock.now() + .milliseconds(Int(seconds * 1000))
    while true {
      collect()
      if let value = try check() { return value }
      if process.hasEnded() { throw SceneFailure("worker \(name) ended while waiting for \(what)") }
      guard MonotonicClock.now() < deadline else {
        throw SceneFailure("worker \(name): no \(what) within \(seconds) s")
      }
      doorbell.wait(until: MonotonicClock.now() + .milliseconds(10))
    }
  }

  private func event(_ id: UInt64, _ what: String, seconds: Double) throws -> WorkerEvent {
    try wait(what, seconds: seconds) {
      guard let index = pending.firstIndex(where: { $0.id == id }) else { return nil }
      let event = pending.remove(at: index)
      if case .error(_, let message) = event {
        throw SceneFailure("worker \(name), \(what): \(message)")
      }
      return event
    }
  }

  func waitUntilReady() throws {
    try wait("start", seconds: 60) { isReady ? () : nil }
  }

  func clearTrace() {
    collect()
    trace = []
    fetchEvents = []
  }

  // MARK: Commands

  private func send(_ command: WorkerCommand) throws {
    var bytes = try JSONEncoder().encode(command)
    bytes.append(UInt8(ascii: "\n"))
    try input.write(contentsOf: bytes)
  }

  private func begin(_ action: WorkerCommand.Action) throws -> UInt64 {
    defer { idNext += 1 }
    try send(WorkerCommand(action, id: idNext))
    return idNext
  }

  /// Has a command carried out, and waits until it is.
  ///
  /// - Returns: What it counted, where it counts something.
  @discardableResult
  func perform(_ action: WorkerCommand.Action) throws -> Int? {
    let what = action.name.rawValue
    guard case .done(_, let count) = try event(try begin(action), what, seconds: 20) else {
      throw SceneFailure("worker \(name): another answer than that \(what) is done")
    }
    return count
  }

  /// Starts a generation; its id is given to ``result(of:)``.
  func begin(_ prompt: [Int32], generate: Int, hint: String?) throws -> UInt64 {
    try begin(
      .generate(
        .init(
          prompt: prompt, max: generate, hint: hint.map { .init(store: $0) }, ignoreEnd: true)))
  }

  /// Not answered by itself: the request's result follows.
  func cancel(_ id: UInt64) throws { try send(WorkerCommand(.cancel, id: id)) }

  /// Whether a request has ended; its result is still to be taken.
  func hasResult(of id: UInt64) -> Bool {
    collect()
    return pending.contains { if case .result = $0 { $0.id == id } else { false } }
  }

  func result(of id: UInt64) throws -> ConsoleResult {
    guard case .result(_, let result) = try event(id, "result", seconds: 180) else {
      throw SceneFailure("worker \(name): no result")
    }
    if let error = result.error { throw SceneFailure("worker \(name): \(error)") }
    return result
  }

  func generate(_ prompt: [Int32], generate count: Int, hint: String? = nil) throws -> ConsoleResult
  {
    try result(of: try begin(prompt, generate: count, hint: hint))
  }

  func audit() throws -> WorkerAudit {
    guard case .audit(_, let audit) = try event(try begin(.audit), "audit", seconds: 20) else {
      throw SceneFailure("worker \(name): no audit")
    }
    return audit
  }

  /// Empties this worker's caches. A block that is being saved keeps its name until it is saved, so that is
  /// waited for; where the own store hangs it may stay.
  func dropCaches(store: Bool = true) throws {
    let deadline = MonotonicClock.now() + .seconds(2)
    while try audit().saving > 0, MonotonicClock.now() < deadline { usleep(2_000) }
    try perform(.drop(.init(g1: true, store: store)))
  }

  /// Ends the engine in an orderly way; its store lingers.
  func stop() {
    try? input.close()
    if !process.hasEnded(waiting: 5_000) { process.signal(SIGKILL) }
    _ = process.hasEnded(waiting: 1_000)
  }
}

import Foundation
import OSThreads
import RemoteG2Core
import RemoteG2Runtime

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
  /// Every transfer moment since the last ``clearTrace()``.
  private(set) var trace: [WireTransfer] = []
  private(set) var fetchEvents: [WireFetch] = []
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
      if let transfer = event.transfer {
        trace.append(transfer)
      } else if let fetch = event.fetch {
        fetchEvents.append(fetch)
      } else {
        for reason in event.result?.reasons ?? [] { reasonsTold[reason, default: 0] += 1 }
        pending.append(event)
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
      if event.event == .error {
        throw SceneFailure("worker \(name), \(what): \(event.message ?? "unknown error")")
      }
      return event
    }
  }

  func waitUntilReady() throws {
    _ = try wait("start", seconds: 60) { () -> WorkerEvent? in
      guard let index = pending.firstIndex(where: { $0.event == .ready }) else { return nil }
      return pending.remove(at: index)
    }
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

  private func command(_ name: WorkerCommand.Name, _ set: (inout WorkerCommand) -> Void = { _ in })
    throws -> UInt64
  {
    var command = WorkerCommand(name, id: idNext)
    idNext += 1
    set(&command)
    try send(command)
    return command.id
  }

  @discardableResult
  func perform(
    _ name: WorkerCommand.Name, _ set: (inout WorkerCommand) -> Void = { _ in }
  ) throws -> WorkerEvent {
    try event(try command(name, set), name.rawValue, seconds: 20)
  }

  /// Starts a generation; its id is given to ``result(of:)``.
  func begin(_ prompt: [Int32], generate: Int, hint: String?) throws -> UInt64 {
    try command(.generate) {
      $0.prompt = prompt
      $0.max = generate
      $0.ignoreEnd = true
      $0.hint = hint.map { .init(store: $0) }
    }
  }

  /// Not answered by itself: the request's result follows.
  func cancel(_ id: UInt64) throws { try send(WorkerCommand(.cancel, id: id)) }

  func result(of id: UInt64) throws -> WireResult {
    let event = try event(id, "result", seconds: 180)
    guard let result = event.result else { throw SceneFailure("worker \(name): an empty result") }
    if let error = result.error { throw SceneFailure("worker \(name): \(error)") }
    return result
  }

  func generate(_ prompt: [Int32], generate count: Int, hint: String? = nil) throws -> WireResult {
    try result(of: try begin(prompt, generate: count, hint: hint))
  }

  func audit() throws -> WorkerAudit {
    guard let audit = try perform(.audit).audit else {
      throw SceneFailure("worker \(name): an empty audit")
    }
    return audit
  }

  /// Empties this worker's caches. A block that is being saved keeps its name until it is saved, so that is
  /// waited for; where the own store hangs it may stay.
  func dropCaches(store: Bool = true) throws {
    let deadline = MonotonicClock.now() + .seconds(2)
    while try audit().saving > 0, MonotonicClock.now() < deadline { usleep(2_000) }
    try perform(.drop) {
      $0.g1 = true
      $0.store = store
    }
  }

  /// Ends the engine in an orderly way; its store lingers.
  func stop() {
    try? input.close()
    if !process.hasEnded(waiting: 5_000) { process.signal(SIGKILL) }
    _ = process.hasEnded(waiting: 1_000)
  }
}

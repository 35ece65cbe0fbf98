package import Collectives
internal import Foundation
internal import Glibc
internal import KVConnector
internal import KVTransfer
package import NIXL
internal import OSThreads
internal import Processes
package import RankGroups
package import RemoteG2Core
internal import RemoteG2Engine
package import RemoteG2Runtime
internal import Synchronization
internal import TransferRig

/// Drives a worker from its standard input, one JSON command a line, and writes what happens to its
/// standard output, one JSON event a line.
package final class WorkerConsole: Sendable {
  /// How long requests that were accepted may take after the input has ended, and how long commands
  /// wait for a reader of what was written before.
  private static let drainMax: Duration = .seconds(60)
  /// How long a reader may read nothing when the worker ends.
  private static let writeMax: Duration = .seconds(5)

  let limits: Limits
  let output: ConsoleOutput
  /// Requests in the engine are numbered here; callers' ids come back with the result.
  let callers = Mutex<[UInt64: UInt64]>([:])
  let requestNext = Mutex<UInt64>(1)
  /// Whether the command `fault` is obeyed.
  let breaks: Bool
  /// Stands between the worker's connector and its control client.
  let trusting = Mutex<TrustingControl?>(nil)

  /// - Parameter breaks: Whether the command `fault` lets transfers go wrong.
  package init(limits: Limits, breaks: Bool = false) {
    self.limits = limits
    self.breaks = breaks
    output = ConsoleOutput(STDOUT_FILENO, waitingMax: limits.eventsWaitingMax)
  }

  /// Runs until the input ends or says `stop`.
  package func run(
    _ configuration: WorkerConfiguration, library: NIXLLibrary?, group: MPIGroup? = nil,
    watchdog: GroupWatchdog? = nil
  ) async throws(WorkerError) {
    let worker = try Worker(
      configuration, library: library, group: group,
      onResult: { [self] result in
        let caller = callers.withLock { $0.removeValue(forKey: result.id.value) }
        write(.result(caller, ConsoleResult(result)))
      },
      onEvent: { [self] event in write(.fetch(ConsoleFetch(event))) }, rigging: rigging)
    watchdog?.groupHasStarted()
    try worker.start()
    let absence = await worker.waitForStore()
    write(.ready(absence: absence.map { "without a store: \($0)" }))
    for await line in Self.lines(limits.commandBytesMax) {
      guard let line else {
        write(.error(nil, "a command is longer than \(limits.commandBytesMax) bytes"))
        continue
      }
      if line.isEmpty { continue }
      do {
        let command = try JSONDecoder().decode(WorkerCommand.self, from: line)
        switch command.action {
        case .stop:
          end(worker)
          return
        case .cancel: cancel(command.id, worker)
        default:
          // Counted from when it became full, over all commands that wait.
          while let full = output.fullSince, MonotonicClock.now() < full + Self.drainMax {
            try? await Task.sleep(for: .milliseconds(5))
          }
          await perform(command, worker)
        }
      } catch {
        let id = try? JSONDecoder().decode(CommandNumber.self, from: line).id
        write(.error(id, "not a command: \(Self.words(of: error))"))
      }
    }
    // The input ended: what was accepted is still answered, within a bound.
    let deadline = MonotonicClock.now() + Self.drainMax
    while !callers.withLock({ $0.isEmpty }), MonotonicClock.now() < deadline {
      try? await Task.sleep(for: .milliseconds(5))
    }
    end(worker)
  }

  /// What the commands `pace`, `fault`, `trace` and `proof` need in the worker.
  private var rigging: WorkerRigging {
    WorkerRigging(
      pump: TransferRig.rigging(breaks: breaks) { [self] trace in
        write(.transfer(ConsoleTransfer(trace)))
      },
      control: { [self] control in
        let made = TrustingControl(control)
        trusting.withLock { $0 = made }
        return made
      })
  }

  // MARK: Lines

  func write(_ event: WorkerEvent) { output.post(event) }

  /// What was answered is written before the process ends, if its reader still reads.
  private func end(_ worker: Worker) {
    worker.stop()
    output.end(patience: Self.writeMax)
  }

  /// Nil for a line that is too long.
  private static func lines(_ bytesMax: Int) -> AsyncStream<Data?> {
    AsyncStream { continuation in
      // A thread of its own: reading standard input blocks.
      _ = OSThread.start("console") {
        var reader = LineReader(0, bytesMax: bytesMax)
        while let line = reader.next() {
          switch line {
          case .text(let bytes): continuation.yield(Data(bytes))
          case .tooLong: continuation.yield(nil)
          }
        }
        continuation.finish()
      }
    }
  }

  /// What is left of a command that cannot be read as a whole: whoever waits for its answer gets one.
  private struct CommandNumber: Decodable { let id: UInt64 }

  private static func words(of error: any Error) -> String {
    guard let error = error as? DecodingError else { return "\(error)" }
    switch error {
    case .keyNotFound(let key, _): return "\(key.stringValue) is missing"
    case .typeMismatch(_, let context), .valueNotFound(_, let context),
      .dataCorrupted(let context):
      let path = context.codingPath.map(\.stringValue).joined(separator: ".")
      return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
  }
}

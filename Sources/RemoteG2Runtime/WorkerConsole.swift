package import Collectives
internal import Foundation
internal import Glibc
internal import KVConnector
internal import KVTransfer
package import NIXL
internal import OSThreads
internal import RemoteG2Control
package import RemoteG2Core
internal import RemoteG2Engine
internal import Synchronization

/// Drives a worker from its standard input, one JSON command a line, and writes what happens to its
/// standard output, one JSON event a line.
package final class WorkerConsole: Sendable {
  /// How long requests that were accepted may take after the input has ended, and how long a command
  /// waits for the reader of the ones before it.
  private static let drainMax: Duration = .seconds(60)
  /// How long a reader may take to read what is left when the worker ends.
  private static let writeMax: Duration = .seconds(5)

  private let limits: Limits
  private let output: ConsoleOutput
  /// Requests in the engine are numbered here; callers' ids come back with the result.
  private let callers = Mutex<[UInt64: UInt64]>([:])
  private let requestNext = Mutex<UInt64>(1)

  package init(limits: Limits) {
    self.limits = limits
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
        var event = WorkerEvent(.result, id: caller)
        event.result = WireResult(result)
        write(event)
      },
      onTrace: { [self] trace in
        var event = WorkerEvent(.transfer)
        event.transfer = WireTransfer(trace)
        write(event)
      },
      onEvent: { [self] fetched in
        var event = WorkerEvent(.fetch)
        event.fetch = WireFetch(fetched)
        write(event)
      })
    watchdog?.groupHasStarted()
    try worker.start()
    write(WorkerEvent(.ready))
    for await line in Self.lines(limits.commandBytesMax) {
      let patience = MonotonicClock.now() + Self.drainMax
      while output.isFull, MonotonicClock.now() < patience {
        try? await Task.sleep(for: .milliseconds(5))
      }
      guard let line else {
        write(
          WorkerEvent(
            .error, message: "a command is longer than \(limits.commandBytesMax) bytes"))
        continue
      }
      if line.isEmpty { continue }
      do {
        let command = try JSONDecoder().decode(WorkerCommand.self, from: line)
        if command.cmd == .stop {
          end(worker)
          return
        }
        await perform(command, worker)
      } catch {
        write(WorkerEvent(.error, message: "not a command: \(Self.words(of: error))"))
      }
    }
    // The input ended: what was accepted is still answered, within a bound.
    let deadline = MonotonicClock.now() + Self.drainMax
    while !callers.withLock({ $0.isEmpty }), MonotonicClock.now() < deadline {
      try? await Task.sleep(for: .milliseconds(5))
    }
    end(worker)
  }

  // MARK: Commands

  private func perform(_ command: WorkerCommand, _ worker: Worker) async {
    let id = command.id
    switch command.cmd {
    case .generate: generate(command, worker)
    case .cancel:
      let request = callers.withLock { callers in callers.first { $0.value == id }?.key }
      worker.onStepThread { worker in
        if let request { worker.engine.cancel(RequestID(request)) }
      }
    case .drop:
      if command.store == true {
        do throws(CallError) {
          _ = try await worker.control.localClient?.evictUnpinned(timeout: .seconds(2))
        } catch {
          write(WorkerEvent(.error, id: id, message: "the store did not evict: \(error)"))
          return
        }
      }
      let dropsCache = command.g1 == true
      worker.onStepThread { [self] worker in
        if dropsCache { worker.engine.dropCache() }
        write(WorkerEvent(.done, id: id))
      }
    case .save:
      let prompt = command.prompt ?? []
      worker.onStepThread { [self] worker in
        var event = WorkerEvent(.done, id: id)
        event.count = worker.engine.saveAgain(prompt: prompt)
        write(event)
      }
    case .pace:
      guard (command.bytesPerSecond ?? 1) > 0, (command.transferBlocks ?? 1) > 0 else {
        write(WorkerEvent(.error, id: id, message: "a pace is positive"))
        return
      }
      worker.onStepThread { [self] worker in
        worker.connector.setPace(
          command.bytesPerSecond, transferBlocks: command.transferBlocks, ranks: command.ranks)
        write(WorkerEvent(.done, id: id))
      }
    case .renewals:
      worker.control.setRenewals(dropped: command.on == false)
      write(WorkerEvent(.done, id: id))
    case .ttl:
      let seconds = command.seconds
      guard (seconds ?? 1) > 0, (seconds ?? 1) < 86400 else {
        write(
          WorkerEvent(.error, id: id, message: "a lease lives more than 0 s and less than a day"))
        return
      }
      worker.control.setLeaseTTL(seconds.map { .nanoseconds(Int64($0 * 1e9)) })
      write(WorkerEvent(.done, id: id))
    case .proof:
      guard let policy = ProofPolicy(named: command.policy ?? "") else {
        write(WorkerEvent(.error, id: id, message: "unknown proof policy"))
        return
      }
      worker.onStepThread { [self] worker in
        worker.connector.setProof(policy)
        write(WorkerEvent(.done, id: id))
      }
    case .fault:
      let fault = command.fault.map { TransferFault(rawValue: $0) }
      guard worker.configuration.injectsFaults, fault != .some(nil) else {
        write(
          WorkerEvent(
            .error, id: id,
            message: "a fault needs --inject, and is one of: "
              + TransferFault.allCases.map(\.rawValue).joined(separator: ", ")))
        return
      }
      let ranks = command.ranks ?? []
      worker.onStepThread { [self] worker in
        worker.connector.inject(fault ?? nil, ranks: ranks)
        write(WorkerEvent(.done, id: id))
      }
    case .trace:
      let isOn = command.on == true
      worker.onStepThread { [self] worker in
        worker.connector.setTracing(isOn)
        write(WorkerEvent(.done, id: id))
      }
    case .audit:
      var event = WorkerEvent(.audit, id: id)
      event.audit = await worker.audit()
      event.audit?.eventsDropped = output.droppedCount
      write(event)
    case .stop: break
    }
  }

  private func generate(_ command: WorkerCommand, _ worker: Worker) {
    let number = requestNext.withLock { next in
      defer { next += 1 }
      return next
    }
    var hint: Hint?
    if let wire = command.hint {
      do throws(HintError) {
        hint = try Hint(
          version: wire.v, store: wire.store, blocksMax: wire.blocks, limits: limits)
      } catch {
        // Advisory: the request is served without it, and its router is told.
        write(WorkerEvent(.error, id: command.id, message: "hint ignored: \(error)"))
      }
    }
    let spec = RequestSpec(
      id: RequestID(number), prompt: command.prompt ?? [], generateMax: command.max ?? 64,
      hint: hint, ignoresEnd: command.ignoreEnd ?? false, wantsDigests: true)
    callers.withLock { $0[number] = command.id }
    let id = command.id
    worker.onStepThread { [self] worker in
      do throws(RequestError) { try worker.engine.submit(spec) } catch {
        callers.withLock { $0[number] = nil }
        write(WorkerEvent(.error, id: id, message: "\(error)"))
      }
    }
  }

  // MARK: Lines

  private func write(_ event: WorkerEvent) { output.post(event) }

  /// What was answered is written before the process ends, if its reader still reads.
  private func end(_ worker: Worker) {
    worker.stop()
    output.end(by: MonotonicClock.now() + Self.writeMax)
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

extension ProofPolicy {
  /// The policy of a name on the command line.
  package init?(named name: String) {
    if name == "unsafelyTrusting" {
      self = .unsafelyTrusting
    } else if let digests = DigestPolicy(rawValue: name) {
      self = .proven(digests)
    } else {
      return nil
    }
  }
}

internal import Foundation
internal import Glibc
internal import OSThreads
package import RemoteG2Core

/// A worker's standard output: one JSON event a line, written by a thread of its own. Whoever reads
/// slowly, or not at all, holds up no step, and so no rank that waits for it.
package final class ConsoleOutput: Sendable {
  private struct State {
    var waiting: [WorkerEvent] = []
    var isEnding = false
    var hasEnded = false
    /// Lines dealt with, ever.
    var written = 0
    var fullSince: LocalInstant?
    var dropped = 0
  }

  private let state = Guarded(State())
  private let bell = Doorbell()
  private let ended = Doorbell()
  private let waitingMax: Int

  /// - Parameters:
  ///   - descriptor: Stays the caller's to close.
  ///   - waitingMax: Events that may wait for the reader. Beyond it, moments of transfers and fetches
  ///     are dropped and counted; answers never are.
  package init(_ descriptor: Int32, waitingMax: Int) {
    self.waitingMax = waitingMax
    _ = OSThread.start("console-out") { [self] in loop(descriptor) }
  }

  package func post(_ event: WorkerEvent) {
    state.withLock { state in
      if state.waiting.count >= waitingMax, event.isMoment {
        state.dropped += 1
      } else {
        state.waiting.append(event)
        if state.waiting.count == waitingMax { state.fullSince = MonotonicClock.now() }
      }
    }
    bell.ring()
  }

  /// Since when more waits than should: no further command is to be taken up until it is read.
  package var fullSince: LocalInstant? { state.withLock { $0.fullSince } }
  package var droppedCount: Int { state.withLock { $0.dropped } }

  /// Returns once everything is written, or when nothing could be for `patience`: what is left then is
  /// lost with the process.
  ///
  /// - Returns: Whether everything was written that could be.
  @discardableResult
  package func end(patience: Duration) -> Bool {
    state.withLock { $0.isEnding = true }
    bell.ring()
    var written = state.withLock { $0.written }
    while true {
      ended.wait(atMost: patience)
      let (hasEnded, now) = state.withLock { ($0.hasEnded, $0.written) }
      if hasEnded || now == written { return hasEnded }
      written = now
    }
  }

  private func loop(_ descriptor: Int32) {
    let encoder = JSONEncoder()
    // Its reader is gone, or its disk is full: what came after half a line would be read as part of it.
    var isBroken = false
    while true {
      let (events, isEnding) = state.withLock { state in
        let taken = (state.waiting, state.isEnding)
        state.waiting = []
        state.fullSince = nil
        return taken
      }
      for event in events where !isBroken {
        var line: Data
        do { line = try encoder.encode(event) } catch {
          preconditionFailure("an event cannot be written: \(error)")
        }
        line.append(UInt8(ascii: "\n"))
        isBroken = !write(line, to: descriptor)
        state.withLock { $0.written += 1 }
      }
      if !events.isEmpty { continue }
      if isEnding { break }
      bell.wait(atMost: .seconds(3600))
    }
    state.withLock { $0.hasEnded = true }
    ended.ring()
  }

  /// - Returns: false when it cannot be written, now or later.
  private func write(_ line: Data, to descriptor: Int32) -> Bool {
    line.withUnsafeBytes { bytes in
      var written = 0
      while written < bytes.count {
        let count = Glibc.write(
          descriptor, bytes.baseAddress! + written, bytes.count - written)
        if count > 0 {
          written += count
        } else if errno == EAGAIN {
          // A descriptor that somebody made non-blocking.
          var ready = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
          _ = poll(&ready, 1, 1_000)
        } else if errno != EINTR {
          return false
        }
      }
      return true
    }
  }
}

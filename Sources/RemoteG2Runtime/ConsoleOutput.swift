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
      if state.waiting.count >= waitingMax, event.transfer != nil || event.fetch != nil {
        state.dropped += 1
      } else {
        state.waiting.append(event)
      }
    }
    bell.ring()
  }

  /// More waits than should: no further command is to be taken up until the reader has read.
  package var isFull: Bool { state.withLock { $0.waiting.count >= waitingMax } }
  package var droppedCount: Int { state.withLock { $0.dropped } }

  /// Ends the thread, once everything is written or `deadline` has passed.
  package func end(by deadline: LocalInstant) {
    state.withLock { $0.isEnding = true }
    bell.ring()
    ended.wait(until: deadline)
  }

  private func loop(_ descriptor: Int32) {
    let encoder = JSONEncoder()
    while true {
      let (events, isEnding) = state.withLock { state in
        let taken = (state.waiting, state.isEnding)
        state.waiting = []
        return taken
      }
      for event in events {
        guard var line = try? encoder.encode(event) else { continue }
        line.append(UInt8(ascii: "\n"))
        write(line, to: descriptor)
      }
      if !events.isEmpty { continue }
      if isEnding { break }
      bell.wait(atMost: .seconds(3600))
    }
    ended.ring()
  }

  private func write(_ line: Data, to descriptor: Int32) {
    line.withUnsafeBytes { bytes in
      var written = 0
      while written < bytes.count {
        let count = Glibc.write(
          descriptor, bytes.baseAddress! + written, bytes.count - written)
        if count < 0, errno == EINTR { continue }
        // Its reader is gone, and there is nobody to tell.
        guard count > 0 else { return }
        written += count
      }
    }
  }
}

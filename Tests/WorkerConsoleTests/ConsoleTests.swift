import Foundation
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Runtime
import Testing
import WorkerConsole

@Suite struct `A worker's output` {
  @Test func `a reader that does not read holds up nobody, and misses no answer`() throws {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    // Full before the first event, so that the writer holds one batch and no more.
    try #require(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0)
    let filling = [UInt8](repeating: UInt8(ascii: "\n"), count: 1 << 20)
    #expect(write(ends[1], filling, filling.count) < filling.count)
    try #require(fcntl(ends[1], F_SETFL, 0) == 0)
    let output = ConsoleOutput(ends[1], waitingMax: 1000)
    // Many times what a pipe holds: a post that waited for the reader would never return.
    let moment = WorkerEvent.fetch(
      ConsoleFetch(
        FetchEvent(
          .planned(blocks: 1), at: LocalInstant(nanoseconds: 1), request: RequestID(1),
          source: .peer("A"))))
    for id in 0..<20_000 {
      output.post(.done(UInt64(id)))
      output.post(moment)
    }
    #expect(output.droppedCount > 10_000)
    #expect(!output.end(patience: .milliseconds(50)), "nobody has read, so it cannot be written")
    let reading = ends[0]
    let (answers, moments) = (Mailbox<UInt64>(), Mailbox<Bool>())
    let reader = OSThread.start("reader") {
      var lines = LineReader(reading, bytesMax: 1 << 16)
      while case .text(let line)? = lines.next() {
        guard let event = try? JSONDecoder().decode(WorkerEvent.self, from: Data(line)) else {
          continue
        }
        if let id = event.id { answers.post(id) } else { moments.post(true) }
      }
    }
    #expect(output.end(patience: .seconds(30)))
    #expect(output.fullSince == nil)
    close(ends[1])
    reader.join()
    close(ends[0])
    #expect(answers.drain() == (0..<20_000).map { UInt64($0) })
    #expect(moments.drain().count + output.droppedCount == 20_000)
  }

  @Test func `a reader that is gone ends nothing`() throws {
    signal(SIGPIPE, SIG_IGN)
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    defer { close(ends[1]) }
    close(ends[0])
    let output = ConsoleOutput(ends[1], waitingMax: 10)
    for id in 0..<100 { output.post(.done(UInt64(id))) }
    #expect(output.end(patience: .seconds(30)))
  }

  @Test func `a descriptor that never blocks misses no answer either`() throws {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    try #require(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0)
    let output = ConsoleOutput(ends[1], waitingMax: 1 << 20)
    for id in 0..<20_000 { output.post(.done(UInt64(id))) }
    let reading = ends[0]
    let answers = Mailbox<UInt64>()
    let reader = OSThread.start("reader") {
      var lines = LineReader(reading, bytesMax: 1 << 16)
      while case .text(let line)? = lines.next() {
        if let event = try? JSONDecoder().decode(WorkerEvent.self, from: Data(line)) {
          answers.post(event.id ?? 0)
        }
      }
    }
    #expect(output.end(patience: .seconds(30)))
    close(ends[1])
    reader.join()
    close(ends[0])
    #expect(answers.drain() == (0..<20_000).map { UInt64($0) })
  }
}

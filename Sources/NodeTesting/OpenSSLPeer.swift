internal import Foundation
internal import OSThreads
internal import Processes
package import RemoteG2Core

/// Somebody who speaks TLS by the system's `openssl`, and says what he likes.
package enum OpenSSLPeer {
  static let program = "/usr/bin/openssl"

  /// Connects, says this and hears what comes: a whole message, or what there was when the other end closed. It waits
  /// for ten seconds at most.
  ///
  /// - Parameter arguments: Of `openssl s_client`.
  package static func connect(
    to port: Int, saying bytes: [UInt8], _ arguments: [String]
  ) throws -> [UInt8] {
    let base = FileManager.default.temporaryDirectory.path + "/rg2peer-\(UUID().uuidString)"
    let (said, heard) = ("\(base)-said", "\(base)-heard")
    defer { for path in [said, heard] { try? FileManager.default.removeItem(atPath: path) } }
    try Data(bytes).write(to: URL(fileURLWithPath: said))
    try Data().write(to: URL(fileURLWithPath: heard))
    let input = try FileHandle(forReadingFrom: URL(fileURLWithPath: said))
    let output = try FileHandle(forWritingTo: URL(fileURLWithPath: heard))
    let client = try ChildProcess(
      program, ["s_client", "-quiet", "-connect", "127.0.0.1:\(port)"] + arguments,
      input: input.fileDescriptor, output: output.fileDescriptor)
    let deadline = MonotonicClock.now() + .seconds(10)
    while !client.hasEnded(waiting: 5) {
      let isHeard = first(of: Array(try Data(contentsOf: URL(fileURLWithPath: heard)))) != nil
      guard isHeard || MonotonicClock.now() >= deadline else { continue }
      client.signal(SIGKILL)
      _ = client.hasEnded(waiting: 1000)
      break
    }
    return Array(try Data(contentsOf: URL(fileURLWithPath: heard)))
  }

  /// The first message of what was heard.
  package static func first(of heard: [UInt8]) -> StreamMessage? {
    var intake = FrameIntake()
    var rest = heard[...]
    while !rest.isEmpty {
      let piece = Array(rest.prefix(intake.wanted))
      rest = rest.dropFirst(piece.count)
      do {
        if let message = try piece.withUnsafeBytes({ try intake.take($0) }) { return message }
      } catch { return nil }
    }
    return nil
  }
}

/// A listener that shows a certificate, and is no node: `openssl s_server`.
package final class OpenSSLListener {
  package struct Failure: Error {}

  package let port: Int
  private let process: ChildProcess
  private let pipes = [Pipe(), Pipe()]

  /// - Parameter arguments: Of `openssl s_server`.
  package init(_ arguments: [String]) throws {
    process = try ChildProcess(
      OpenSSLPeer.program, ["s_server", "-accept", "127.0.0.1:0"] + arguments,
      input: pipes[0].fileHandleForReading.fileDescriptor,
      output: pipes[1].fileHandleForWriting.fileDescriptor)
    try pipes[1].fileHandleForWriting.close()
    var lines = LineReader(pipes[1].fileHandleForReading.fileDescriptor, bytesMax: 4096)
    while case .text(let line)? = lines.next() {
      let text = String(decoding: line, as: UTF8.self)
      guard text.hasPrefix("ACCEPT"),
        let found = text.split(separator: ":").last.flatMap({ Int($0) })
      else { continue }
      port = found
      return
    }
    throw Failure()
  }

  package func stop() {
    process.signal(SIGKILL)
    _ = process.hasEnded(waiting: 5000)
  }
}

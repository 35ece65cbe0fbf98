import Foundation
import NIXL

/// What a command that started processes does when it is told to end: it ends them too.
enum Interruption {
  /// Returns when SIGINT or SIGTERM comes, or when `isOver` holds, which is looked at several times a second; nil:
  /// it never does.
  static func comes(orWhen isOver: (@Sendable () -> Bool)? = nil) async {
    let (ends, end) = AsyncStream<Void>.makeStream()
    let sources = [SIGINT, SIGTERM].map { number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler { end.yield() }
      source.resume()
      return source
    }
    let look = isOver.map { isOver in
      Task {
        while !isOver() { try await Task.sleep(for: .milliseconds(200)) }
        end.yield()
      }
    }
    for await _ in ends { break }
    look?.cancel()
    withExtendedLifetime(sources) {}
  }

  /// Runs `clean` once on SIGINT or SIGTERM, and ends this process.
  static func clean(_ clean: @escaping @Sendable () -> Void) {
    for number in [SIGINT, SIGTERM] {
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler {
        clean()
        NIXLLibrary.endProcess(128 + number)
      }
      source.resume()
      // For the life of the process.
      _ = Unmanaged.passRetained(source as AnyObject)
    }
  }
}

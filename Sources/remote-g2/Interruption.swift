import Foundation
import NIXL

/// What a command that started processes does when it is told to end: it ends them too.
enum Interruption {
  /// Blocks its thread until SIGINT or SIGTERM comes.
  static func wait() {
    let end = DispatchSemaphore(value: 0)
    let sources = [SIGINT, SIGTERM].map { number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler { end.signal() }
      source.resume()
      return source
    }
    end.wait()
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

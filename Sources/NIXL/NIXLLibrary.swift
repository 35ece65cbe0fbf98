internal import CNIXL
internal import Glibc

/// The loaded `libnixl_capi.so`. Its presence is a value: without one there is no agent to make.
package struct NIXLLibrary: Sendable {
  package let path: String

  /// Opens the library, once per process; later calls return the one already loaded.
  ///
  /// - Throws: ``NIXLError/unusable(path:reason:)`` with the loader's own words.
  package static func load(_ path: String) throws(NIXLError) -> NIXLLibrary {
    var reason = [CChar](repeating: 0, count: 1024)
    guard cnixl_load(path, &reason, reason.count) == 0 else {
      let bytes = reason.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      throw .unusable(path: path, reason: String(decoding: bytes, as: UTF8.self))
    }
    return NIXLLibrary(path: cnixl_loaded_path().map { String(cString: $0) } ?? path)
  }

  private init(path: String) { self.path = path }

  /// Ends a process that has used UCX.
  ///
  /// A normal exit runs a destructor bundled with UCX that crashes, so such a process ends here
  /// and nowhere else. Output is flushed first; `atexit` functions do not run.
  package static func endProcess(_ status: Int32) -> Never {
    fflush(nil)
    _exit(status)
  }
}

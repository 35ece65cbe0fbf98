internal import Foundation
package import NIXL
internal import Processes

/// Finds `libnixl_capi.so`. Each place that was looked at is remembered with what was found there.
package struct NIXLDiscovery: Sendable {
  package struct Candidate: Sendable, Equatable {
    package let path: String
    /// Who suggested it.
    package let origin: String
    /// Why it cannot be used; nil for the one that is.
    package let problem: String?
  }

  package let candidates: [Candidate]
  package let library: NIXLLibrary?

  /// Looks in order: the flag, `NIXL_LIBRARY_PATH`, `.deps`, Python's site-packages, the system.
  ///
  /// A path named by the user is the only one tried: a typo must not silently find another library.
  package init(
    explicitPath: String?, environment: [String: String] = ProcessInfo.processInfo.environment
  ) {
    var places: [(path: String, origin: String)] = []
    if let explicitPath {
      places = Self.libraries(at: explicitPath, origin: "--nixl-path")
    } else if let named = environment["NIXL_LIBRARY_PATH"], !named.isEmpty {
      places = Self.libraries(at: named, origin: "NIXL_LIBRARY_PATH")
    } else {
      for root in Self.depsRoots() { places += Self.wheel(in: root, origin: ".deps") }
      for root in Self.sitePackages() { places += Self.wheel(in: root, origin: "Python") }
      for prefix in ["/opt/nvidia/nvda_nixl", "/usr/local/nixl", "/usr/local", "/usr"] {
        for folder in ["lib/x86_64-linux-gnu", "lib64", "lib"] {
          let path = "\(prefix)/\(folder)/libnixl_capi.so"
          if FileManager.default.fileExists(atPath: path) { places.append((path, "system")) }
        }
      }
    }
    var candidates: [Candidate] = []
    var library: NIXLLibrary?
    for place in places where library == nil {
      guard FileManager.default.fileExists(atPath: place.path) else {
        candidates.append(
          Candidate(path: place.path, origin: place.origin, problem: "there is no such file"))
        continue
      }
      do throws(NIXLError) {
        library = try NIXLLibrary.load(place.path)
        candidates.append(Candidate(path: place.path, origin: place.origin, problem: nil))
      } catch {
        let reason = if case .unusable(_, let reason) = error { reason } else { "\(error)" }
        candidates.append(
          Candidate(path: place.path, origin: place.origin, problem: reason))
      }
    }
    self.candidates = candidates
    self.library = library
  }

  /// One sentence for somebody who needs NIXL and has none.
  package var explanation: String {
    if candidates.isEmpty {
      return "NIXL was not found: run scripts/setup, or `pip install nixl-cu12==1.5.1`, "
        + "or name libnixl_capi.so with --nixl-path"
    }
    return candidates.map { "\($0.path) (\($0.origin)) cannot be used: \($0.problem ?? "")" }
      .joined(separator: "; ")
  }

  private static func libraries(
    at path: String, origin: String
  ) -> [(path: String, origin: String)] {
    var isDirectory: ObjCBool = false
    if FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory),
      isDirectory.boolValue
    {
      let inside = wheel(in: path, origin: origin)
      return inside.isEmpty ? [(path + "/libnixl_capi.so", origin)] : inside
    }
    return [(path, origin)]
  }

  /// The wheel keeps its libraries in a folder of its own beside the Python package.
  private static func wheel(
    in root: String, origin: String
  ) -> [(path: String, origin: String)] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
    return names.sorted().filter { $0.hasPrefix(".nixl") && $0.hasSuffix(".mesonpy.libs") }.map {
      ("\(root)/\($0)/libnixl_capi.so", origin)
    }
  }

  /// `.deps/nixl` beside the executable's package. Never of the current folder, which may be anybody's.
  private static func depsRoots() -> [String] {
    var roots: [String] = []
    if let executable = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    {
      var folder = URL(fileURLWithPath: executable)
      for _ in 0..<6 {
        folder = folder.deletingLastPathComponent()
        roots.append(folder.path + "/.deps/nixl")
      }
    }
    var seen: Set<String> = []
    return roots.filter { FileManager.default.fileExists(atPath: $0) && seen.insert($0).inserted }
  }

  private static func sitePackages() -> [String] {
    let script = "import site; print('\\n'.join(site.getsitepackages()))"
    guard
      let found = try? ChildProcess.run(
        "/usr/bin/env", ["python3", "-c", script], timeout: .seconds(5)),
      found.status == 0
    else { return [] }
    return found.output.split(separator: "\n").map(String.init)
  }
}

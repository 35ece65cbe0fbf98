import Foundation
import Testing

/// What the manifest says, and what the sources do.
@Suite struct `The manifest` {
  /// By target: the other targets of this package that it names.
  static func declared() throws -> [String: Set<String>] {
    let text = try String(
      contentsOf: Tidy.root.appendingPathComponent("Package.swift"), encoding: .utf8)
    let short = /(?:module|tests)\(\s*"(?<name>[\w-]+)"(?:,\s*on:\s*\[(?<on>[^\]]*)\])?/
    let long =
      /\.(?:executableTarget|target|systemLibrary)\(\s*name:\s*"(?<name>[\w-]+)"(?:,\s*dependencies:\s*\[(?<on>[^\]]*)\])?/
    var found: [String: Set<String>] = [:]
    func add(_ name: Substring, _ list: Substring?) {
      let names = (list ?? "").matches(of: /"(?<module>[\w-]+)"/)
      found[String(name)] = Set(names.map { String($0.output.module) })
    }
    for match in text.matches(of: short) { add(match.output.name, match.output.on) }
    for match in text.matches(of: long) { add(match.output.name, match.output.on) }
    return found
  }

  @Test func `whatever a file imports of this package, its target names`() throws {
    let declared = try Self.declared()
    #expect(declared.count > 30, "\(declared.keys.sorted())")
    var looked = 0
    for folder in ["Sources", "Tests", "Benchmarks"] {
      for source in Tidy.sources(folder) {
        guard let names = declared[source.module] else { continue }
        looked += 1
        for name in Tidy.imports(source) where declared[name] != nil && !names.contains(name) {
          Issue.record(
            "\(source.path) imports \(name), which \(source.module) does not name in Package.swift")
        }
      }
    }
    #expect(looked > 200, "\(looked) files were looked at")
  }

  @Test func `a test target is named after the module that it tests`() throws {
    let declared = Set(try Self.declared().keys)
    let suites = declared.filter { $0.hasSuffix("Tests") }
    // The tree itself, and the program.
    let others: Set<String> = ["TidyTests", "CommandLineTests"]
    #expect(suites.count > 10 && suites.isSuperset(of: others))
    for suite in suites.subtracting(others) where !declared.contains(String(suite.dropLast(5))) {
      Issue.record("\(suite) tests no module of that name: move its tests to their module's")
    }
  }
}

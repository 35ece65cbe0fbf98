import Foundation
import Testing

/// The rules a machine can check. Each failure says which file, and what to do.
@Suite struct Tidy {
  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  struct Source {
    let path: String
    let text: String
    var lines: [Substring] { text.split(separator: "\n", omittingEmptySubsequences: false) }
    var module: String { path.split(separator: "/").dropFirst().first.map(String.init) ?? "" }
  }

  static func sources(_ folder: String, _ suffixes: [String] = [".swift"]) -> [Source] {
    let base = root.appendingPathComponent(folder)
    let names =
      FileManager.default.enumerator(atPath: base.path)?.compactMap { $0 as? String } ?? []
    return names.filter { name in suffixes.contains { name.hasSuffix($0) } }
      .filter { !$0.contains("Generated/") }
      .compactMap { name in
        (try? String(contentsOf: base.appendingPathComponent(name), encoding: .utf8)).map {
          Source(path: "\(folder)/\(name)", text: $0)
        }
      }
  }

  /// Modules imported by a line like `package import Foo`.
  static func imports(_ source: Source) -> [String] {
    source.lines.compactMap { line in
      let words = line.split(separator: " ")
      guard let index = words.firstIndex(of: "import"), index <= 1, words.count > index + 1 else {
        return nil
      }
      return String(words[index + 1])
    }
  }

  static let pure: [String: Set<String>] = ["KVLayout": [], "RemoteG2Core": ["KVLayout"]]

  @Test func `sources were found at all`() {
    #expect(Self.sources("Sources").count > 50)
    #expect(Self.sources("Tests").count > 5)
  }

  @Test func `pure modules import nothing impure`() {
    for source in Self.sources("Sources") {
      guard let allowed = Self.pure[source.module] else { continue }
      for name in Self.imports(source) where !allowed.contains(name) {
        Issue.record(
          "\(source.path) imports \(name): pass time, randomness and I/O in as arguments")
      }
    }
  }

  @Test func `only its one wrapper imports each C module`() {
    let wrappers = [
      "CMPI": ["Collectives"], "CKernels": ["Linear"], "CNIXL": ["NIXL"],
      "CXXHash": ["ContentDigest"],
      "CLinuxShims": [
        "LocalStore", "OSThreads", "Processes", "RankGroups", "RemoteG2Node",
        "RemoteG2Runtime",
      ],
    ]
    for source in Self.sources("Sources") {
      for name in Self.imports(source) {
        guard let allowed = wrappers[name], !allowed.contains(source.module) else { continue }
        Issue.record("\(source.path) imports \(name): only \(allowed) may, use what it wraps")
      }
    }
  }

  @Test func `arrows point down only`() {
    let order = [
      "KVLayout", "RemoteG2Core", "OSThreads", "ContentDigest", "LocalStore", "NIXL", "Processes",
      "Linear", "Collectives", "LlamaModel", "LlamaModelTesting", "KVTransfer", "NIXLTransfer",
      "KVTransferTesting", "KVConnector", "KVWorker", "EngineControl", "RemoteG2Library",
      "RemoteG2CABI", "RemoteG2Node", "NodeKeeper", "NodeTesting", "FuzzTargets", "NodeMetrics",
      "NodeRegistry",
      "TransferRig", "RemoteG2Engine", "Simulation", "TraceReplay", "RemoteG2EngineTesting",
      "RemoteG2Control",
      "PoolAgents", "RankGroups", "RemoteG2Runtime", "WorkerConsole", "remote-g2",
      "remote-g2-testhost",
    ]
    let rank = Dictionary(uniqueKeysWithValues: order.enumerated().map { ($1, $0) })
    for source in Self.sources("Sources") {
      guard let own = rank[source.module] else {
        Issue.record("\(source.path): add the module \(source.module) to this test's order")
        continue
      }
      for name in Self.imports(source) {
        guard let other = rank[name], other >= own else { continue }
        Issue.record("\(source.path) imports \(name), which is above it: turn the arrow round")
      }
    }
  }

  /// Every module that a module reaches by its imports, itself included.
  static func closure(of module: String) -> Set<String> {
    let all = Dictionary(grouping: sources("Sources"), by: \.module)
    var (found, open): (Set<String>, [String]) = ([module], [module])
    while let next = open.popLast() {
      for name in (all[next] ?? []).flatMap(imports) where found.insert(name).inserted {
        open.append(name)
      }
    }
    return found
  }

  @Test(arguments: [
    // What an engine of somebody else's links.
    (
      "RemoteG2Library",
      [
        "GRPCCore", "NIOCore", "SwiftProtobuf", "NIXL", "CNIXL", "CMPI", "Collectives", "Linear",
        "LlamaModel", "RemoteG2Engine", "RemoteG2Control", "PoolAgents", "Crypto",
      ]
    ),
    // The service of one host.
    (
      "RemoteG2Node",
      [
        "GRPCCore", "NIOCore", "NIXL", "CNIXL", "Collectives", "LlamaModel", "RemoteG2Engine",
        "EngineControl", "KVTransfer", "KVConnector", "TransferRig",
      ]
    ),
    // Who decides moves nothing.
    ("KVConnector", ["KVTransfer", "LocalStore", "OSThreads", "NIXL"]),
    ("EngineControl", ["GRPCCore", "NIOCore", "KVTransfer", "NIXL"]),
    ("KVTransfer", ["NIXL", "CNIXL"]),
    // Demonstrations are for tools and tests.
    ("RemoteG2Library", ["TransferRig", "WorkerConsole", "Simulation"]),
    ("RemoteG2Runtime", ["TransferRig", "WorkerConsole", "Simulation"]),
    ("PoolAgents", ["TransferRig", "WorkerConsole", "Simulation", "LlamaModel"]),
  ])
  func `no module reaches what it must never need`(module: String, never: [String]) {
    let reached = Self.closure(of: module)
    #expect(reached.count > 1, "\(module) was not found")
    for name in never where reached.contains(name) {
      Issue.record("\(module) reaches \(name): put what needs it into a module above both")
    }
  }

  @Test func `nothing but the step loop and the forward pass can reach a collective`() {
    // Whoever else could enter one could enter it on some ranks only.
    let wired: Set<String> = [
      "Collectives", "LlamaModel", "RankGroups", "RemoteG2Engine", "RemoteG2EngineTesting",
      "RemoteG2Runtime", "Simulation", "WorkerConsole", "remote-g2", "remote-g2-testhost",
    ]
    let callers = [
      ".broadcast(": ["RemoteG2Engine/Engine.swift", "RemoteG2Engine/RankLoop.swift"],
      ".gather(": ["RemoteG2Engine/Engine.swift", "RemoteG2Engine/RankLoop.swift"],
      // The other tells when a sum is entered, to die there.
      ".sum(": ["LlamaModel/LlamaModel+Forward.swift", "remote-g2-testhost/GroupHost.swift"],
      // Nor can anybody else make what enters one.
      "MPIGroup(": ["remote-g2/WorkerCommandLine.swift", "remote-g2-testhost/GroupHost.swift"],
      "MPITensorReducer(": [
        "RemoteG2Runtime/Worker.swift", "RemoteG2Runtime/RankFollower.swift",
        "remote-g2-testhost/GroupHost.swift",
      ],
      "StepChannel(": ["RemoteG2Runtime/Worker.swift", "RemoteG2Runtime/RankFollower.swift"],
      "MPIStepChannel<": ["remote-g2-testhost/GroupHost.swift"],
    ]
    var found: Set<String> = []
    for source in Self.sources("Sources") where source.module != "Collectives" {
      if Self.imports(source).contains("Collectives"), !wired.contains(source.module) {
        Issue.record("\(source.path) imports Collectives: plan it, and let the step loop do it")
      }
      for line in source.lines {
        let code = line.split(separator: "//", omittingEmptySubsequences: false).first ?? ""
        for (call, allowed) in callers where code.contains(call) {
          if allowed.contains(where: { source.path == "Sources/" + $0 }) {
            found.insert(call)
          } else {
            Issue.record("\(source.path) enters a collective: only \(allowed) may")
          }
        }
      }
    }
    #expect(found == Set(callers.keys), "a collective that nobody enters is not what is looked for")
  }

  @Test func `no file is longer than 400 lines`() {
    for source in Self.sources("Sources", [".swift", ".c", ".h"]) + Self.sources("Tests")
    where source.lines.count > 400 {
      Issue.record("\(source.path) has \(source.lines.count) lines: split it by aspect")
    }
  }

  @Test func `banned words name nothing`() {
    let banned = ["Manager", "Helper", "Util", "Handler", "blk", "req"]
    for source in Self.sources("Sources") {
      for line in source.lines {
        let code = line.split(separator: "//", omittingEmptySubsequences: false).first ?? ""
        for keyword in [
          "class ", "struct ", "enum ", "protocol ", "func ", "var ", "let ", "case ",
        ] {
          guard let range = code.range(of: keyword) else { continue }
          let name = code[range.upperBound...].prefix { $0.isLetter || $0.isNumber || $0 == "_" }
          let isBanned = banned.contains { word in
            word.first?.isUppercase == true ? name.contains(word) : name == word
          }
          if isBanned {
            Issue.record("\(source.path) declares \(name): name it after what it is in the domain")
          }
        }
      }
    }
  }

  @Test func `no clock or chance is read outside the shells`() {
    let shells: Set<String> = [
      "Collectives", "EngineControl", "KVTransferTesting", "LocalStore", "OSThreads", "Processes",
      "NodeRegistry", "RankGroups", "RemoteG2Library", "RemoteG2Node", "RemoteG2Runtime",
      "NodeKeeper", "PoolAgents",
      "NodeTesting", "WorkerConsole", "remote-g2", "remote-g2-testhost",
    ]
    let reads = ["MonotonicClock.now()", "SystemRandomNumberGenerator", ".random(in:", "Date()"]
    for source in Self.sources("Sources") where !shells.contains(source.module) {
      // The pump's thread is a shell inside KVTransfer.
      guard !source.path.hasSuffix("TransferPump.swift") else { continue }
      for read in reads where source.text.contains(read) {
        Issue.record("\(source.path) uses \(read): take it as an argument")
      }
    }
  }

  @Test func `nothing is left undone, and no test sleeps`() {
    let marks = ["TO" + "DO", "FIX" + "ME", "XX" + "X:"]
    for source in Self.sources("Sources") + Self.sources("Tests") {
      for mark in marks where source.text.contains(mark) {
        Issue.record("\(source.path) contains \(mark)")
      }
    }
    let sleeps = ["Task." + "sleep", "Thread." + "sleep", "usle" + "ep("]
    for source in Self.sources("Tests") {
      for sleep in sleeps where source.text.contains(sleep) {
        Issue.record("\(source.path) sleeps: wait for the event, or pass the time in")
      }
    }
  }

  @Test func `every unchecked promise to the compiler is argued`() {
    for source in Self.sources("Sources") {
      let lines = source.lines
      for (index, line) in lines.enumerated() where line.contains("@unchecked Sendable") {
        let near = lines[max(0, index - 3)..<min(lines.count, index + 4)]
        if !near.contains(where: { $0.contains("@unchecked:") || $0.contains("// @unchecked") }) {
          Issue.record(
            "\(source.path):\(index + 1) has no '// @unchecked:' comment with the argument")
        }
      }
    }
  }

  @Test func `every test that docs/failures.md names exists, and every row is answered`() throws {
    let text = try String(
      contentsOf: Self.root.appendingPathComponent("docs/failures.md"), encoding: .utf8)
    let declared = Set(
      Self.sources("Tests").flatMap { source in
        source.text.components(separatedBy: "func `").dropFirst().compactMap {
          $0.split(separator: "`").first.map(String.init)
        }
      })
    var (byTest, rows, ofFleets) = (0, 0, 0)
    for line in text.split(separator: "\n") where line.hasPrefix("| F") || line.hasPrefix("| G") {
      let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
      if line.hasPrefix("| F") { rows += 1 } else { ofFleets += 1 }
      #expect(cells.count == 4 && !cells[3].isEmpty, "\(cells.first ?? "") has an empty cell")
      let names = cells[2].components(separatedBy: "`").enumerated()
        .filter { $0.offset % 2 == 1 }.map(\.element)
      for name in names where !declared.contains(name) {
        Issue.record("\(cells[0]) names the test '\(name)', which does not exist")
      }
      if names.isEmpty {
        let isArgued = ["cannot exist here", "issue"].contains { cells[1].hasPrefix($0) }
        #expect(isArgued, "\(cells[0]) has neither a test nor a reason")
      } else if line.hasPrefix("| F") {
        byTest += 1
      }
      let changes = cells[3].split(whereSeparator: { $0 == "," || $0 == " " }).filter {
        $0.first == "M" && $0.dropFirst().allSatisfy(\.isNumber)
      }
      let exists = !cells[1].hasPrefix("cannot exist here")
      #expect(!exists || !changes.isEmpty, "\(cells[0]) names no change that scripts/mutants runs")
      // A change that is named must be there, and be noticed by a test that the row names.
      for word in changes {
        let parts = try #require(Self.mutationTests()[String(word)], "\(cells[0]) names \(word)")
        let isNamed = names.contains { name in parts.contains { name.contains($0) } }
        #expect(isNamed, "\(cells[0]) names \(word), whose test is another: \(parts)")
      }
    }
    #expect(rows == 90 && byTest >= 70, "\(byTest) of \(rows) rows are answered by tests")
    #expect(ofFleets >= 15)
  }

  /// By number: what the names of the tests that notice it contain.
  static func mutationTests() throws -> [String: [String]] {
    let text = try String(
      contentsOf: root.appendingPathComponent("docs/mutations.txt"), encoding: .utf8)
    var found: [String: [String]] = [:]
    for block in text.components(separatedBy: "\n\n") where block.hasPrefix("M") {
      let lines = block.split(separator: "\n")
      guard let number = lines.first,
        let test = lines.first(where: { $0.hasPrefix("test: ") })
      else { continue }
      found[String(number)] = test.dropFirst(6).split(separator: "|").map(String.init)
    }
    return found
  }

  @Test func `every mutation changes a line that is there, once`() throws {
    let text = try String(
      contentsOf: Self.root.appendingPathComponent("docs/mutations.txt"), encoding: .utf8)
    let blocks = text.components(separatedBy: "\n\n").filter { $0.hasPrefix("M") }
    #expect(blocks.count >= 50)
    for block in blocks {
      let lines = block.split(separator: "\n")
      guard lines.count >= 5, lines[1].hasPrefix("file: "), lines[2].hasPrefix("- ") else {
        Issue.record("\(lines.first ?? "") is not a mutation")
        continue
      }
      let file = Self.root.appendingPathComponent(String(lines[1].dropFirst(6)))
      let code = (try? String(contentsOf: file, encoding: .utf8)) ?? ""
      let count = code.components(separatedBy: lines[2].dropFirst(2)).count - 1
      #expect(count == 1, "\(lines[0]): its line occurs \(count) times in \(lines[1].dropFirst(6))")
    }
  }
}

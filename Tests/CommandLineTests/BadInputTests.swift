import Foundation
import Processes
import RemoteG2Runtime
import Testing
import WorkerConsole

/// The built program, beside the test runner.
let program = URL(fileURLWithPath: "/proc/self/exe".resolved).deletingLastPathComponent()
  .appendingPathComponent("remote-g2").path
let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
  .deletingLastPathComponent().deletingLastPathComponent().path
let model = repository + "/.deps/model/SmolLM2-135M-Instruct.Q4_1.gguf"
let hasModel = FileManager.default.fileExists(atPath: model)

@Suite(.serialized) struct `Bad input` {
  static let node = [
    "node", "--name", "T", "--memory", "64KiB", "--listen", "127.0.0.1:0", "--linger", "0",
    "--nixl-path", "/nonexistent",
  ]

  /// An empty folder. Those of test runs that have ended are taken away.
  static func directory() -> String {
    _ = oldFoldersAreGone
    let path = "\(folder)/\(UUID().uuidString.prefix(8))"
    try? FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    return path
  }

  private static let folder = FileManager.default.temporaryDirectory.path + "/rg2t-\(getpid())"
  private static let oldFoldersAreGone: Void = {
    let parent = FileManager.default.temporaryDirectory.path
    let names = (try? FileManager.default.contentsOfDirectory(atPath: parent)) ?? []
    for name in names where name.hasPrefix("rg2t-") {
      if let pid = Int32(name.dropFirst(5)), kill(pid, 0) == 0 { continue }
      try? FileManager.default.removeItem(atPath: "\(parent)/\(name)")
    }
  }()

  /// The last line the program said, with its status; fails on anything that looks like a crash.
  static func refusal(_ arguments: [String]) throws -> (status: Int32, words: String) {
    let run = try ChildProcess.run(program, arguments, timeout: .seconds(60))
    #expect(run.status != 0, "\(arguments) was accepted")
    #expect(run.status < 128, "\(arguments) ended by signal \(run.status - 128)")
    for crash in ["Fatal error", "Crash", " at /"] {
      #expect(!run.errors.contains(crash), "\(run.errors)")
    }
    return (run.status, run.errors)
  }

  @Test(arguments: [
    (["--memory", "0"], "--memory 0"), (["--memory", "-3MiB"], "--memory"),
    (["--memory", "99999999999GiB"], "--memory 99999999999GiB"),
    (["--direct", "127.0.0.1:70000"], "--direct 127.0.0.1:70000"),
    (["--linger", "-1"], "--linger"), (["--name", "a/b"], "--name 'a/b'"),
    (["--direct", "nowhere:1"], "--direct nowhere"), (["--direct", "0.0.0.0:1"], "wildcard"),
    (["--direct", "10.0.0.1:1"], "--insecure"), (["--listen", "10.0.0.1:1"], "--insecure"),
    (["--listen", "127.0.0.1"], "--listen 127.0.0.1"),
  ]) func `a node refuses a value that is not possible, and names it`(
    arguments: [String], expected: String
  ) throws {
    let words = try Self.refusal(
      Self.node + ["--run-dir", Self.directory()] + arguments
    ).words
    #expect(words.contains(expected), "\(words)")
  }

  @Test(arguments: [
    (["--members", "etcd:ftp://h:1"], "ftp://h:1 is neither http://HOST:PORT nor https://"),
    (["--members", "etcd:http://h:1,https://h"], "https://h is neither"),
    (["--members", "etcd:http://h:1", "--members", "etcd:http://i:1"], "one registry is possible"),
    (["--etcd-authority", "f"], "--etcd-authority is for a registry"),
    (["--members", "etcd:http://127.0.0.1:1", "--etcd-authority", "f"], "for an etcd at https://"),
    (["--members", "etcd:https://h:1", "--etcd-certificate", "f"], "--etcd-key is missing"),
    (["--members", "etcd:https://h:1", "--etcd-user", "u"], "--etcd-password-file is missing"),
    (
      [
        "--members", "etcd:http://h:1", "--etcd-user", "u", "--etcd-password-file", "/etc/hostname",
      ],
      "the password of --etcd-user in the open"
    ),
    (["--members", "etcd:https://h:1", "--etcd-authority", "/nobody"], "/nobody cannot be read"),
  ]) func `a node refuses a registry that it could not ask safely, and says what to do`(
    arguments: [String], expected: String
  ) throws {
    let words = try Self.refusal(
      Self.node + ["--run-dir", Self.directory()] + arguments
    ).words
    #expect(words.contains(expected), "\(words)")
  }

  @Test(arguments: [
    (["--threads", "0"], "--threads 0"), (["--g1-blocks", "1"], "--g1-blocks 1"),
    (["--step-tokens", "0"], "--step-tokens 0"), (["--digests", "maybe"], "--digests 'maybe'"),
    (["--load-failure", "cry"], "--load-failure 'cry'"), (["--peer", "B"], "peer"),
    (["--peer", "B=127.0.0.1:0"], "peer"), (["--model", "/nonexistent.gguf"], "/nonexistent.gguf"),
    (["--model", "/etc/hostname"], "not a GGUF file"),
  ]) func `a worker refuses a value that is not possible, and names it`(
    arguments: [String], expected: String
  ) throws {
    let words = try Self.refusal(
      ["worker", "--name", "T", "--port", "7999", "--run-dir", Self.directory()] + arguments
    ).words
    #expect(words.contains(expected), "\(words)")
  }

  @Test(arguments: [
    (["--peer", "B=127.0.0.1:7001", "--peer", "B=127.0.0.1:7002"], "B"),
    (["--peer", "B=127.0.0.1:7001", "--peer", "C=127.0.0.1:7001"], "127.0.0.1:7001"),
    (["--peer", "T=127.0.0.1:7001"], "T"), (["--peer", "B=127.0.0.1:7999"], "127.0.0.1:7999"),
  ]) func `two members of one name or one address are refused`(
    arguments: [String], expected: String
  ) throws {
    let words = try Self.refusal(
      [
        "worker", "--name", "T", "--port", "7999", "--run-dir", Self.directory(), "--model",
        "/nonexistent.gguf",
      ] + arguments
    ).words
    #expect(words.contains(expected) && words.contains("--peer"), "\(words)")
  }

  @Test func `a run directory that others may write is refused`() throws {
    let directory = Self.directory()
    #expect(chmod(directory, 0o777) == 0)
    let words = try Self.refusal(Self.node + ["--run-dir", directory]).words
    #expect(words.contains(directory) && words.contains("700"), "\(words)")
    var status = stat()
    #expect(stat(directory, &status) == 0 && status.st_mode & 0o777 == 0o777, "it was changed")
  }

  @Test func `a link planted in the run directory is not followed`() throws {
    let directory = Self.directory()
    let victim = Self.directory() + "/victim"
    try FileManager.default.createSymbolicLink(
      atPath: directory + "/T.node.lock", withDestinationPath: victim)
    let words = try Self.refusal(Self.node + ["--run-dir", directory]).words
    #expect(words.contains("T.node.lock"), "\(words)")
    #expect(!FileManager.default.fileExists(atPath: victim))
  }

  @Test func `a run directory that is a link is refused`() throws {
    let link = Self.directory() + "/link"
    try FileManager.default.createSymbolicLink(
      atPath: link, withDestinationPath: Self.directory())
    let words = try Self.refusal(Self.node + ["--run-dir", link]).words
    #expect(words.contains(link), "\(words)")
  }

  @Test func `a NIXL that lies in the current folder is not loaded`() throws {
    let folder = Self.directory()
    let planted = folder + "/.deps/nixl/.nixl_evil.mesonpy.libs"
    try FileManager.default.createDirectory(atPath: planted, withIntermediateDirectories: true)
    try Data("not a library".utf8).write(to: URL(fileURLWithPath: planted + "/libnixl_capi.so"))
    let run = try ChildProcess.run(
      "/bin/sh", ["-c", "cd '\(folder)' && exec '\(program)' doctor"], timeout: .seconds(60))
    #expect(!(run.output + run.errors).contains("nixl_evil"), "\(run.output) \(run.errors)")
  }

  @Test func `run refuses what it does not know`() throws {
    #expect(try Self.refusal(["run", "--transport", "carrier"]).words.contains("'carrier'"))
    #expect(try Self.refusal(["run", "--scenes", "opera"]).words.contains("no scene 'opera'"))
    #expect(try Self.refusal(["run", "--generate", "0"]).words.contains("--generate 0"))
    #expect(
      try Self.refusal(["run", "--nixl-path", "/etc/hostname"]).words.contains("/etc/hostname"))
  }

  @Test func `a port in use and a name in use are said so`() throws {
    let directory = Self.directory()
    var arguments = Self.node + ["--run-dir", directory, "--direct", "127.0.0.1:0"]
    arguments[arguments.firstIndex(of: "--linger")! + 1] = "30"
    let output = Pipe()
    let first = try ChildProcess(
      program, arguments, output: output.fileHandleForWriting.fileDescriptor)
    defer {
      first.signal(SIGKILL)
      _ = first.hasEnded(waiting: 2000)
    }
    var reader = LineReader(output.fileHandleForReading.fileDescriptor, bytesMax: 4096)
    guard case .text(let line)? = reader.next(),
      let ready = try JSONSerialization.jsonObject(with: Data(line)) as? [String: Any],
      let port = ready["direct"] as? Int
    else {
      Issue.record("the store did not start")
      return
    }
    let name = try Self.refusal(arguments).words
    #expect(name.contains("named T is running already"), "\(name)")
    let port2 = try Self.refusal(
      Self.node + ["--run-dir", Self.directory(), "--direct", "127.0.0.1:\(port)"]
    ).words
    #expect(port2.contains("port \(port) on 127.0.0.1 is in use"), "\(port2)")
  }

  @Test(.enabled(if: hasModel, "no model")) func `a truncated model is named as that`() throws {
    let path = Self.directory() + "/cut.gguf"
    let whole = try Data(contentsOf: URL(fileURLWithPath: model), options: .mappedIfSafe)
    try whole.prefix(3_000_000).write(to: URL(fileURLWithPath: path))
    let words = try Self.refusal(
      ["worker", "--name", "T", "--port", "7999", "--run-dir", Self.directory(), "--model", path]
    ).words
    #expect(words.contains("truncated"), "\(words)")
  }

  @Test(
    .enabled(if: hasModel, "no model"),
    arguments: [
      ["worker", "--name", "T", "--port", "7997", "--run-dir", directory(), "--tp", "2"],
      ["run", "--tp", "2"],
    ])
  func `a number of ranks that the heads do not allow is refused with those they do`(
    arguments: [String]
  ) throws {
    let (status, output, errors) = try ChildProcess.run(
      program, arguments + ["--model", model], timeout: .seconds(20))
    #expect(status != 0 && output.isEmpty, "\(output)")
    #expect(errors.contains("--tp 2") && errors.contains("1, 3"), "\(errors)")
  }

  @Test func `no JSON crashes the decoder of commands`() {
    let sound = Array(
      ("{\"cmd\":\"generate\",\"id\":5,\"prompt\":[1,9690],\"max\":1,"
        + "\"hint\":{\"v\":1,\"store\":\"A\",\"blocks\":3},\"bytesPerSecond\":1e9}").utf8)
    var state: UInt64 = 1
    func below(_ count: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int((state >> 33) % UInt64(count))
    }
    let pieces = [
      "null", "-1", "1e400", "99999999999999999999", "\"", "{", "]", "\u{0}", "[[[[", "true",
      "\\u12",
    ].map { Array($0.utf8) }
    var (taken, refused) = (0, 0)
    for _ in 0..<5000 {
      var bytes = sound
      for _ in 0...below(3) {
        let at = below(bytes.count)
        switch below(3) {
        case 0: bytes[at] = UInt8(below(256))
        case 1: bytes.removeSubrange(at..<min(bytes.count, at + 1 + below(6)))
        default: bytes.insert(contentsOf: pieces[below(pieces.count)], at: at)
        }
        if bytes.isEmpty { bytes = [0] }
      }
      if (try? JSONDecoder().decode(WorkerCommand.self, from: Data(bytes))) == nil {
        refused += 1
      } else {
        taken += 1
      }
    }
    #expect(taken > 50 && refused > 1000, "\(taken) taken, \(refused) refused")
  }

  @Test(.enabled(if: hasModel, "no model"))
  func `a worker answers bad commands and bad hints with one error each, and serves on`() throws {
    let commands = [
      "this is not JSON", "{}", "{\"cmd\":\"fly\",\"id\":1}",
      "{\"cmd\":\"trace\",\"id\":12}",
      "{\"cmd\":\"generate\",\"id\":2,\"prompt\":[]}",
      "{\"cmd\":\"generate\",\"id\":3,\"prompt\":[1,2,999999]}",
      "{\"cmd\":\"generate\",\"id\":4,\"prompt\":[1,2],\"max\":-1}",
      "{\"cmd\":\"generate\",\"id\":5,\"prompt\":[1,9690],\"max\":1,\"hint\":{\"v\":9,\"store\":\"A\"}}",
      "{\"cmd\":\"generate\",\"id\":6,\"prompt\":[1,9690,198],\"max\":1,"
        + "\"hint\":{\"v\":1,\"store\":\"nobody\",\"blocks\":99999999}}",
      "{\"cmd\":\"generate\",\"id\":7,\"prompt\":[1,9690,198],\"max\":1,"
        + "\"hint\":{\"v\":1,\"store\":\"nobody\"}}",
      "{\"cmd\":\"pace\",\"id\":8,\"bytesPerSecond\":-1}",
      "{\"cmd\":\"pace\",\"id\":11,\"bytesPerSecond\":0.0001}",
      "{\"cmd\":\"ttl\",\"id\":9,\"seconds\":0}",
      "{\"cmd\":\"proof\",\"id\":10,\"policy\":\"hope\"}",
    ]
    let run = try ChildProcess.run(
      program,
      [
        "worker", "--name", "T", "--port", "7998", "--run-dir", Self.directory(), "--linger", "0",
        "--g1-blocks", "16", "--slots", "16", "--threads", "1",
      ], input: commands.joined(separator: "\n") + "\n", timeout: .seconds(120))
    #expect(run.status == 0, "\(run.errors)")
    let events = try run.output.split(separator: "\n").map {
      try JSONDecoder().decode(WorkerEvent.self, from: Data($0.utf8))
    }
    let errors = events.compactMap { event -> (id: UInt64?, message: String)? in
      if case .error(let id, let message) = event { (id, message) } else { nil }
    }
    for (id, words) in [
      (2, "prompt is empty"), (3, "token 999999"), (4, "generation of -1"), (5, "version 9"),
      (6, "spans 99999999 blocks"), (8, "pace"), (11, "pace"), (9, "lease lives"),
      (10, "proof policy"), (1, "not a command"), (12, "on is missing"),
    ] {
      #expect(
        errors.contains { $0.id == UInt64(id) && $0.message.contains(words) }, "\(words)")
    }
    #expect(errors.count { $0.id == nil } == 2, "two lines had no number")
    let answered = Set(
      events.compactMap { event in if case .result(let id, _) = event { id } else { nil } })
    #expect(answered == [5, 6, 7], "requests with bad hints are served without them")
    guard case .ready = events.first else {
      Issue.record("the first event is \(String(describing: events.first))")
      return
    }
  }
}

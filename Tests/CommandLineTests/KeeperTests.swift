import Foundation
import NodeTesting
import OSThreads
import Processes
import RemoteG2Core
import RemoteG2Node
import Testing

/// Real processes: a keeper, those that serve for it, and engines beside them.
@Suite(.serialized) struct `A kept node` {
  @Test func `that is killed in the middle of everything has its blocks again`() throws {
    let trial = try AdoptionTrial(program: program)
    let result = try trial.run(kills: 3)
    #expect(result.kills == 3 && result.loads > 50 && result.pulls > 10, "\(result)")
    #expect(result.expected > 100, "\(result)")
    #expect(result.served * 100 >= result.expected * 99, "\(result)")
    #expect(result.wrong == 0 && result.refused == 0, "\(result)\n\(trial.log)")
    #expect(trial.end() == nil)
  }

  /// A node with two sealed blocks.
  private static func filled() throws -> (ServedNode, NodeEngine) {
    let node = try ServedNode(program: program, memory: "4MiB")
    let engine = try NodeEngine(node.socket)
    #expect(engine.comes { engine.isAttached })
    engine.step()
    engine.save((1...2).map { BlockKey(high: 8, low: $0) }) { UInt64($0) }
    #expect(engine.comes { node.report?.pools.first?.sealed == 2 })
    return (node, engine)
  }

  private static func life(_ node: ServedNode) -> Int { node.report?.adoption?.life ?? 0 }

  private static func kill(_ node: ServedNode) throws {
    let (pid, before) = (try #require(node.serving), life(node))
    Glibc.kill(pid, SIGKILL)
    #expect(comes { life(node) > before })
  }

  @Test func `that ends twice at once begins with nothing`() throws {
    let (node, engine) = try Self.filled()
    defer { _ = node.end() }
    // So long that what comes next is the first short life.
    #expect(engine.comes { node.log.contains("serves members") })
    let since = MonotonicClock.now()
    #expect(comes { MonotonicClock.now() - since > Limits().lifeShortMax })
    try Self.kill(node)
    #expect(comes { node.report?.adoption?.adopted == 2 })
    try Self.kill(node)
    #expect(comes { node.report?.adoption?.adopted == 2 }, "one short life proves nothing")
    try Self.kill(node)
    #expect(Self.life(node) == 4)
    #expect(node.report?.adoption?.waiting == 0 && node.report?.adoption?.adopted == 0)
    #expect(node.log.contains("begins with nothing, because it ended twice before"))
    #expect(engine.comes { engine.isAttached && node.report?.pools.first?.sealed == 0 })
  }

  @Test func `whose process cannot be seen to end begins with nothing, two seconds later`() throws {
    let (node, engine) = try Self.filled()
    defer { _ = node.end() }
    let pid = try #require(node.serving)
    // Whoever traces a process hears of its end first, and this one says nothing of it.
    let input = Pipe()
    let tracer = try ChildProcess(
      "/usr/bin/python3",
      [
        "-c",
        """
        import ctypes, os, sys
        libc = ctypes.CDLL(None, use_errno=True)
        for task in os.listdir("/proc/\(pid)/task"):
            if libc.ptrace(0x4206, int(task), None, None): sys.exit(ctypes.get_errno())
        sys.stdin.read()
        """,
      ], input: input.fileHandleForReading.fileDescriptor)
    let isTraced = comes {
      ProcFile.text("/proc/\(pid)/status")?.contains("TracerPid:\t\(tracer.pid)\n") == true
        || tracer.hasEnded()
    }
    try #require(isTraced && !tracer.hasEnded(), "nobody may trace a process here")
    let killedAt = MonotonicClock.now()
    Glibc.kill(pid, SIGKILL)
    #expect(comes { Self.life(node) == 2 })
    #expect(MonotonicClock.now() - killedAt >= Limits().reapMax)
    #expect(ProcFile.text("/proc/\(pid)/stat")?.contains(") Z ") == true, "it has been reaped")
    #expect(node.report?.adoption == AdoptionReport(life: 2))
    #expect(node.log.contains("begins with nothing, because it may still write"))
    #expect(engine.comes { engine.isAttached && node.report?.pools.first?.sealed == 0 })
    try input.fileHandleForWriting.close()
    #expect(comes { tracer.hasEnded() })
    #expect(comes { ProcFile.text("/proc/\(pid)/stat") == nil }, "it is left behind")
    #expect(Self.life(node) == 2, "the end of the other was taken for that of this one")
  }

  @Test func `whose keeper is killed leaves nothing behind`() throws {
    let (node, engine) = try Self.filled()
    let pid = try #require(node.serving)
    // Threads of a pool end when they have been idle for a while, and with them what they have asked of the system.
    let own = ProcFile.text("/proc/\(pid)/comm")
    func pooled() -> Int {
      ProcFile.names(in: "/proc/\(pid)/task").count {
        ProcFile.text("/proc/\(pid)/task/\($0)/comm") == own
      }
    }
    let before = pooled()
    _ = comes { pooled() < before }
    node.keeper.signal(SIGKILL)
    #expect(node.keeper.hasEnded(waiting: 5_000))
    #expect(comes { Glibc.kill(pid, 0) != 0 })
    #expect(engine.comes { !engine.isAttached })
    _ = node.end()
  }

  @Test func `ends when it is told to, and says what is wrong with how it is started`() throws {
    let (node, _) = try Self.filled()
    let pid = try #require(node.serving)
    #expect(node.end() == 0)
    #expect(Glibc.kill(pid, 0) != 0)
    let refusal = try `Bad input`.refusal(`Bad input`.node + ["--kept"])
    #expect(refusal.words.contains("--kept"))
    #expect(
      try `Bad input`.refusal(`Bad input`.node + ["--memory", "0"]).words.split(separator: "\n")
        .count == 1, "one clear error")
  }
}

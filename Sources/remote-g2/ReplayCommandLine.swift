import ArgumentParser
import Foundation
import OSThreads
import Processes
import RemoteG2Core
import TraceReplay

struct ReplayCommandLine: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "replay",
    abstract:
      "What a fleet would hit, by a trace of prompts and the decisions of the nodes that ship.",
    discussion: """
      A trace has a JSON object a line: "hash_ids", a number for each block of a prompt (equal numbers are \
      equal prefixes), and "timestamp", in milliseconds. Its requests are dealt to nodes that share, and for \
      comparison to nodes that do not, to one pool of the same size in all under the same policy, to one in \
      which what was used longest ago makes room, and to one that never evicts. Shares are of all prompt blocks.
      """)

  @Argument(help: "The trace.") var trace: String
  @Option(help: "How many nodes.") var nodes = 8
  @Option(help: "Blocks of each node's pool.") var blocks = 1000
  @Option(
    help:
      "Which node a request comes to: \(Replay.Route.allCases.map(\.rawValue).joined(separator: ", "))."
  )
  var route = Replay.Route.roundRobin.rawValue
  @Option(
    help: ArgumentHelp(
      """
      What is kept of what is used again: adaptive (as nodes ship), fixed (the share of blocks on probation does not \
      move), forgetful (nor is anything remembered that was evicted).
      """))
  var policy = Replay.Policy.adaptive.rawValue
  @Option(help: "Bytes of one block: 512 tokens of a model with 128 KiB a token, if not told.")
  var blockBytes = "64MiB"
  @Option(help: "Write what was found to this file.") var json: String?

  func run() throws {
    checkRange("--nodes", nodes, 1...64)
    checkRange("--blocks", blocks, 16...1 << 20)
    let bytes = byteCount("--block-bytes", blockBytes)
    guard let route = Replay.Route(rawValue: route) else {
      fail(
        "--route '\(route)' is not one of: "
          + Replay.Route.allCases.map(\.rawValue).joined(separator: ", "))
    }
    guard let policy = Replay.Policy(rawValue: policy) else {
      fail(
        "--policy '\(policy)' is not one of: "
          + Replay.Policy.allCases.map(\.rawValue).joined(separator: ", "))
    }
    let replay = Replay(TraceFile.read(trace))
    var index = IndexCost()
    let fleet = replay.run(
      nodes: nodes, blocks: blocks, areMembers: true, route: route, policy: policy
    ) {
      index = IndexCost(of: $0.first ?? [])
    }
    let alone = replay.run(
      nodes: nodes, blocks: blocks, areMembers: false, route: route, policy: policy)
    let pool = replay.run(nodes: 1, blocks: nodes * blocks, areMembers: false, policy: policy)
    let report = ReplayReport(
      trace: trace, nodes: nodes, blocks: blocks, route: route.rawValue, policy: policy.rawValue,
      requests: replay.requests.count, promptBlocks: replay.promptBlocks,
      alone: replay.share(alone.hits), fleet: replay.share(fleet.hits),
      poolLRU: replay.share(replay.leastRecentlyUsed(blocks: nodes * blocks).hits),
      poolSame: replay.share(pool.hits), optimum: replay.share(replay.unlimited().hits),
      blocksMoved: fleet.moved, bytesMoved: fleet.moved * bytes, indexBytes: index.bytes,
      indexKeys: index.keys, lookupMicroseconds: index.lookupMicroseconds)
    report.show()
    if let json { report.write(to: json) }
  }
}

/// The requests of a trace's file.
private enum TraceFile {
  private struct Line: Decodable {
    let timestamp: Int64
    let hash_ids: [UInt64]
  }

  static func read(_ path: String) -> [TraceRequest] {
    guard let data = FileManager.default.contents(atPath: path) else {
      fail("\(path) cannot be read: name a trace, a JSON object a line")
    }
    let decoder = JSONDecoder()
    var requests: [TraceRequest] = []
    for (number, line) in data.split(separator: UInt8(ascii: "\n")).enumerated() {
      guard let found = try? decoder.decode(Line.self, from: line) else {
        fail(
          "\(path), line \(number + 1): this is no object with \"timestamp\" and \"hash_ids\", both whole "
            + "numbers, not negative: \(String(decoding: line.prefix(60), as: UTF8.self))")
      }
      guard (0...Self.millisecondsMax).contains(found.timestamp),
        found.hash_ids.count <= Self.blocksMax
      else {
        fail(
          "\(path), line \(number + 1): a timestamp is 0 to \(Self.millisecondsMax) ms, and a prompt has "
            + "\(Self.blocksMax) blocks at most")
      }
      requests.append(TraceRequest(milliseconds: found.timestamp, ids: found.hash_ids))
    }
    guard !requests.isEmpty else { fail("\(path) has no request") }
    return requests
  }

  /// A hundred years.
  private static let millisecondsMax: Int64 = 3_155_760_000_000
  /// Of one question to a node.
  private static let blocksMax = Limits().blocksPerFetchMax
}

/// What a node's index of what others hold takes.
private struct IndexCost {
  private(set) var bytes = 0
  private(set) var keys = 0
  /// The median, for 256 keys that one member holds.
  private(set) var lookupMicroseconds: Double?

  init() {}

  /// - Parameter members: What each of the others announces.
  init(of members: [Set<BlockKey>]) {
    let before = OwnMemory.allocatedBytes
    var index = HolderIndex(keysMax: Limits().indexKeysMax)
    for (number, held) in members.enumerated() {
      index.snapshot(Array(held), of: PeerName("n\(number)"))
    }
    _ = index.takeChanges()
    bytes = OwnMemory.allocatedBytes - before
    keys = members.reduce(0) { $0 + $1.count }
    guard let most = members.enumerated().max(by: { $0.element.count < $1.element.count }),
      most.element.count >= 256
    else { return }
    let asked = Array(most.element.prefix(256))
    var times: [Double] = []
    for _ in 0..<1001 {
      let began = MonotonicClock.now()
      let run = index.run(of: asked[...], at: PeerName("n\(most.offset)"))
      times.append((MonotonicClock.now() - began).inSeconds * 1e6)
      precondition(run == asked.count, "the index has lost a key")
    }
    lookupMicroseconds = times.sorted()[times.count / 2]
  }
}

private struct ReplayReport: Encodable {
  let trace: String
  let nodes: Int
  let blocks: Int
  let route: String
  let policy: String
  let requests: Int
  let promptBlocks: Int
  let alone: Double
  let fleet: Double
  let poolLRU: Double
  let poolSame: Double
  let optimum: Double
  let blocksMoved: Int
  let bytesMoved: Int
  let indexBytes: Int
  let indexKeys: Int
  let lookupMicroseconds: Double?

  private enum CodingKeys: String, CodingKey {
    case trace, nodes, blocks, route, policy, requests, alone, fleet, optimum
    case promptBlocks = "prompt_blocks"
    case poolLRU = "pool_lru"
    case poolSame = "pool_same"
    case blocksMoved = "blocks_moved"
    case bytesMoved = "bytes_moved"
    case indexBytes = "index_bytes"
    case indexKeys = "index_keys"
    case lookupMicroseconds = "lookup_us"
  }

  func show() {
    print("\(trace): \(requests) requests, \(promptBlocks) prompt blocks, dealt \(route)")
    func line(_ what: String, _ share: Double) {
      let ratio = String(format: "%.3f of one LRU pool", poolLRU > 0 ? share / poolLRU : 0)
      print(
        "  \(what.padding(toLength: 44, withPad: " ", startingAt: 0))"
          + String(format: "%.4f  ", share) + ratio)
    }
    line("\(nodes) nodes of \(blocks) blocks, each for itself", alone)
    line("the same, sharing", fleet)
    line("one pool of \(nodes * blocks), the same policy", poolSame)
    line("one pool of \(nodes * blocks), least recently used", poolLRU)
    line("one pool that never evicts", optimum)
    print(
      "  \(blocksMoved) blocks moved, "
        + String(format: "%.1f GiB; ", Double(bytesMoved) / Double(1 << 30))
        + "the index of a node: \(indexKeys) keys in \(indexBytes) bytes"
        + (lookupMicroseconds.map { String(format: ", 256 keys looked up in %.1f us", $0) } ?? ""))
  }

  func write(to path: String) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    do { try encoder.encode(self).write(to: URL(fileURLWithPath: path)) } catch {
      fail("cannot write --json \(path): \(error.localizedDescription)")
    }
  }
}

import KVConnector
import RemoteG2Core

/// A control client that answers what the test puts down, and writes down what it is asked.
final class DeskControl: SourceControl, @unchecked Sendable {
  // @unchecked: one test uses it, on one thread.
  let incarnation = Incarnation(high: 77, low: 77)
  var localStore: SourceID?
  var peers: [PeerName: PeerState] = [:]
  var answers: [ControlAnswer] = []
  private(set) var posted: [ControlRequest] = []
  private(set) var attachFailures: [SourceID] = []

  func state(ofPeer name: PeerName) -> PeerState { peers[name] ?? .unknown }
  func attachFailed(_ source: SourceID) { attachFailures.append(source) }
  func post(_ request: ControlRequest) { posted.append(request) }
  func drain() -> [ControlAnswer] {
    defer { answers = [] }
    return answers
  }

  /// Leases of peers that were given back, or whose question was given up.
  var releases: [LeaseID] {
    posted.compactMap {
      if case .release(let source, let lease) = $0, !source.isLocal { lease } else { nil }
    }
  }
}

/// A connector with one ready peer and no engine.
struct Desk {
  static let source = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))

  let control = DeskControl()
  let log = Log()
  let connector: RemoteG2Connector
  var now = LocalInstant(nanoseconds: 1)
  let keys = (0..<12).map { BlockKey(high: UInt64($0), low: 1) }
  private let ending: Ending

  final class Log { var events: [FetchEvent] = [] }

  /// A lease may not be dropped: what is open when the desk goes ends with it.
  private final class Ending {
    let connector: RemoteG2Connector
    init(_ connector: RemoteG2Connector) { self.connector = connector }
    deinit { connector.shutDown(at: LocalInstant(nanoseconds: 1 << 60)) }
  }

  init(limits: Limits = Limits(), pullsByCost: Bool = false, ranks: Int = 1) throws {
    connector = RemoteG2Connector(
      control: control,
      settings: try ConnectorSettings(
        rankCount: ranks, blockBytes: 128, tokensPerBlock: 4, targetBlockCount: 64,
        limits: limits, pullsByCost: pullsByCost)
    ) { [log] in log.events.append($0) }
    ending = Ending(connector)
    control.peers["P"] = .ready(Self.source)
    if ranks == 1 { attach(Self.source) }
  }

  /// The source is announced.
  ///
  /// - Returns: The number of the order to attach it.
  func announce(_ source: SourceID) -> UInt64 {
    control.answers.append(.announced(source, []))
    _ = connector.absorb([], at: now)
    for case .attach(let number, _, _) in connector.plan(at: now) { return number }
    return 0
  }

  /// The source is announced, and the one rank can read it.
  func attach(_ source: SourceID) {
    var report = RankReport(rank: 0, sequence: 0)
    report.attached = [announce(source): true]
    _ = connector.absorb([report], at: now)
  }

  func match(_ computed: Int, id: UInt64 = 1, blocksMax: Int = 12) throws -> RemoteMatch {
    connector.match(
      RequestView(
        id: RequestID(id), keys: keys, blocksMax: blocksMax,
        hint: try Hint(version: 1, store: "P", blocksMax: nil, limits: Limits())),
      computed: computed, at: now)
  }

  /// The source answers the first fetch with this many blocks.
  @discardableResult
  func grant(_ blocks: Int, fetch: UInt64 = 1, serial: UInt64 = 7) -> ConnectorOutcome {
    let granted = (0..<blocks).map {
      GrantedBlock(slot: SlotIndex($0), generation: 1, digests: [nil])
    }
    let lease = LeaseID(
      serial: serial, owner: Self.source.incarnation, holder: control.incarnation)
    control.answers.append(
      .resolved(
        FetchID(fetch), .granted(Grant(lease: lease, ttl: .seconds(30), blocks: granted)),
        after: .milliseconds(1)))
    return connector.absorb([RankReport(rank: 0, sequence: 0)], at: now)
  }

  var isClean: Bool { connector.open == (0, 0, 0) }
}

import KVConnector
import RemoteG2Core
import Testing

/// What a request is told when what it asked for does not fit it any more.
@Suite struct `Matching` {
  /// Answers nothing by itself.
  final class Control: SourceControl, @unchecked Sendable {
    // @unchecked: one thread uses it.
    static let peer = SourceID.peer(name: "P", Incarnation(high: 1, low: 1))
    static let own = SourceID.local(Incarnation(high: 2, low: 2))
    let incarnation = Incarnation(high: 5, low: 5)
    var localStore: SourceID?
    var answers: [ControlAnswer] = []
    var asked: [(fetch: FetchID, source: SourceID, lease: LeaseID)] = []
    func state(ofPeer name: PeerName) -> PeerState { .ready(Self.peer) }
    func drain() -> [ControlAnswer] {
      defer { answers = [] }
      return answers
    }
    func post(_ request: ControlRequest) {
      guard case .resolve(let fetch, let source, let lease, _, _) = request else { return }
      asked.append((fetch, source, lease))
    }
    func grant(blocks: Int) {
      guard let last = asked.last else { return }
      let granted = (0..<blocks).map {
        GrantedBlock(slot: SlotIndex($0), generation: 1, digests: [nil])
      }
      answers.append(
        .resolved(
          last.fetch, .granted(Grant(lease: last.lease, ttl: .seconds(30), blocks: granted)),
          after: .milliseconds(1)))
    }
  }

  final class Log: @unchecked Sendable {
    // @unchecked: one thread uses it.
    var events: [FetchEvent] = []
  }

  static let now = LocalInstant(nanoseconds: 1)

  struct Stage {
    let control = Control()
    let log = Log()
    let connector: RemoteG2Connector
    let view: RequestView

    init(hasLocal: Bool) throws {
      control.localStore = hasLocal ? Control.own : nil
      let log = log
      connector = RemoteG2Connector(
        control: control,
        settings: try ConnectorSettings(
          blockBytes: 64, tokensPerBlock: 4, targetBlockCount: 64, limits: Limits(),
          pullsByCost: false)
      ) { log.events.append($0) }
      view = RequestView(
        id: RequestID(1), keys: (0..<8).map { BlockKey(high: 3, low: UInt64($0)) }, blocksMax: 8,
        hint: try Hint(version: 1, store: "P", blocksMax: nil, limits: Limits()))
      for source in [Control.peer, Control.own] {
        control.answers.append(
          .announced(source, [.own(socket: "", engine: control.incarnation)]))
        _ = connector.absorb([], at: now)
        guard case .attach(let number, _, _)? = connector.plan(at: now).first else { continue }
        var report = RankReport(rank: 0, sequence: 0)
        report.attached = [number: true]
        _ = connector.absorb([report], at: now)
      }
    }
  }

  @Test func `a pull that is given up since all was computed meanwhile has its reason`() throws {
    let stage = try Stage(hasLocal: false)
    #expect(stage.connector.match(stage.view, computed: 0, at: Self.now) == .undecided)
    #expect(stage.control.asked.map(\.source) == [Control.peer])
    #expect(stage.connector.match(stage.view, computed: 8, at: Self.now) == .none)
    _ = stage.connector.absorb([], at: Self.now)
    let reasons = stage.log.events.filter { $0.source == .peer("P") }.compactMap(\.reason)
    #expect(reasons.filter { $0 != .cancelled } == [.prefixMoved])
  }

  @Test func `when what the own store has does not fit any more, the hint is still followed`()
    throws
  {
    let stage = try Stage(hasLocal: true)
    #expect(stage.connector.match(stage.view, computed: 0, at: Self.now) == .undecided)
    #expect(stage.control.asked.map(\.source) == [Control.own])
    stage.control.grant(blocks: 2)
    _ = stage.connector.absorb([], at: Self.now)
    // Another request computed four blocks meanwhile; the own store had two.
    #expect(stage.connector.match(stage.view, computed: 4, at: Self.now) == .undecided)
    #expect(stage.control.asked.map(\.source) == [Control.own, Control.peer])
    stage.control.grant(blocks: 4)
    _ = stage.connector.absorb([], at: Self.now)
    #expect(
      stage.connector.match(stage.view, computed: 4, at: Self.now) == .available(blocks: 4))
    stage.connector.abort(stage.view.id, at: Self.now)
  }
}

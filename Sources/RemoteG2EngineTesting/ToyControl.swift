package import KVConnector
package import RemoteG2Core

/// A control client that answers from ledgers in this process, when the test says so.
package final class ToyControl: SourceControl, @unchecked Sendable {
  // @unchecked: used by one test on one thread.
  package init() {}

  package var peers: [String: PeerState] = [:]
  package var local: SourceID?
  package var ledgers: [SourceID: StoreLedger] = [:]
  package var answers: [ControlAnswer] = []
  package var posted: [ControlRequest] = []
  package var now = LocalInstant(nanoseconds: 0)
  /// How many steps after a request its answer comes.
  package var lateSteps = 0
  private var underWay: [(due: Int, answer: ControlAnswer)] = []
  private var ticks = 0

  /// A step begins: what is due is answered.
  package func tick() {
    ticks += 1
    answers += underWay.filter { $0.due <= ticks }.map(\.answer)
    underWay.removeAll { $0.due <= ticks }
  }

  /// Requests are left without an answer.
  package var isSilent = false
  /// Confirm is answered with this instead of the ledger's word.
  package var confirmAnswer: ConfirmAnswer??

  package func state(ofPeer name: String) -> PeerState { peers[name] ?? .unknown }
  package var localStore: SourceID? { local }

  package func attachFailed(_ source: SourceID) { attachFailures.append(source) }
  package private(set) var attachFailures: [SourceID] = []

  package func drain() -> [ControlAnswer] {
    let taken = answers
    answers = []
    return taken
  }

  package func post(_ request: ControlRequest) {
    posted.append(request)
    guard !isSilent else { return }
    let before = answers
    answers = []
    answer(request)
    if lateSteps > 0 {
      underWay += answers.map { (ticks + lateSteps, $0) }
      answers = before
    } else {
      answers = before + answers
    }
  }

  private func answer(_ request: ControlRequest) {
    switch request {
    case .resolve(let fetch, let source, let keys, _):
      let answer = ledgers[source]?.resolve(keys, ttl: nil, at: now)
      if let answer { grants.append(answer) }
      answers.append(.resolved(fetch, answer, after: .milliseconds(1)))
    case .confirm(let fetch, let source, let lease, _):
      if let confirmAnswer {
        answers.append(.confirmed(fetch, confirmAnswer))
      } else {
        answers.append(.confirmed(fetch, ledgers[source]?.confirm(lease, at: now)))
      }
    case .release(let source, let lease):
      _ = ledgers[source]?.release(lease, at: now)
    case .reserve(let batch, let source, let keys):
      let deadline = now + .seconds(30)
      answers.append(
        .reserved(
          batch: batch, keys.map { ledgers[source]?.pool.reserve($0, until: deadline) ?? .full }))
    case .seal(let source, let rank, let saved):
      for block in saved {
        guard let digest = block.digest else { continue }
        _ = ledgers[source]?.pool.seal(
          block.save.slot, generation: block.save.generation, rank: rank, digest: digest)
      }
    }
  }

  /// Every answer to a resolve.
  package private(set) var grants: [ResolveAnswer] = []

  package var releases: [LeaseID] {
    posted.compactMap { if case .release(_, let lease) = $0 { lease } else { nil } }
  }
}

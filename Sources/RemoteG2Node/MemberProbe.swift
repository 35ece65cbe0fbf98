internal import ContentDigest
internal import OSThreads
package import RemoteG2Core

/// Looks at another node as a member would: is it there, does it hold what we can use, how fast does it answer.
package enum MemberProbe {
  package struct Finding: Sendable {
    package var name: PeerName
    package var pools: [PoolTerms]
    package var keyCount: Int
    package var connectedAfter: Duration
    /// From a question for a block that nobody has to its answer; the median of several.
    package var roundTrip: Duration?
    /// Blocks that came with the digests that were told with them.
    package var provedCount = 0
    package var bytes = 0
    package var pulledIn: Duration = .zero
    package var bytesPerSecond: Double? {
      bytes > 0 && pulledIn > .zero ? Double(bytes) / pulledIn.inSeconds : nil
    }
  }

  package enum Failure: Error, Equatable, Sendable, CustomStringConvertible {
    case unreachable
    case refused(String)
    case silent
    case senseless
    case wrongBytes
    case notBelieved(HandshakeRefusal)

    package var description: String {
      switch self {
      case .unreachable:
        "nobody listens there: start it, or correct the address (that of its --listen)"
      case .refused(let reason): "it refuses: \(reason)"
      case .silent: "it accepts a connection and says nothing for two seconds"
      case .senseless: "what listens there is no node of this version"
      case .notBelieved(let refusal): "\(refusal)"
      case .wrongBytes: "a block came with bytes that are not those it announced"
      }
    }
  }

  private static let patience: Duration = .seconds(2)
  private static let blocksMax = 32
  private static let bytesMax = 256 << 20
  private static let rounds = 20
  private static let keysMax = 1 << 16
  /// Keys that are tried: a member's pools may be several.
  private static let triesMax = 200

  /// Blocks its thread for ten seconds or so at most, whatever the member does.
  ///
  /// - Parameters:
  ///   - member: Whose certificate it must show, if any is shown.
  ///   - keeper: Of the certificate to show.
  ///   - own: What this host's engines have; nil: the first of its own pools is asked for.
  package static func look(
    at address: StreamAddress, as member: PeerName, keeper: TLSKeeper? = nil, own: PoolTerms?
  ) throws(Failure) -> Finding {
    var chance = SystemRandomNumberGenerator()
    let node = Incarnation(using: &chance)
    let name = keeper?.ownName ?? "doctor"
    let hello = StreamHello(node: node, name: name, terms: nil)
    guard let socket = StreamSocket.connect(.init(name: member, address: address), keeper) else {
      throw .unreachable
    }
    let (found, keys) = try watch(socket, hello)
    var finding = found
    guard let terms = own.flatMap({ own in found.pools.first { $0 == own } }) ?? found.pools.first
    else { return finding }
    let puller = try Puller(
      address, of: member, keeper: keeper, hello: StreamHello(node: node, name: name, terms: terms),
      terms: terms)
    var trips: [Duration] = []
    for _ in 0..<rounds {
      let began = MonotonicClock.now()
      _ = try puller.ask([BlockKey(high: chance.next(), low: chance.next())])
      trips.append(MonotonicClock.now() - began)
    }
    finding.roundTrip = trips.sorted()[rounds / 2]
    // Which of its keys are this pool's is not told: each is asked for once.
    var ours: [BlockKey] = []
    let most = max(1, min(blocksMax, bytesMax / terms.bytesOfAllRanks))
    let until = MonotonicClock.now() + patience
    for key in keys.prefix(triesMax) where ours.count < most && MonotonicClock.now() < until {
      if try puller.ask([key]) == 1 { ours.append(key) }
    }
    let began = MonotonicClock.now()
    finding.provedCount = ours.isEmpty ? 0 : try puller.ask(ours)
    finding.pulledIn = MonotonicClock.now() - began
    finding.bytes = finding.provedCount * terms.bytesOfAllRanks
    return finding
  }

  /// What it announces.
  private static func watch(
    _ socket: StreamSocket, _ hello: StreamHello
  ) throws(Failure) -> (Finding, [BlockKey]) {
    let began = MonotonicClock.now()
    func ended(_ finding: Finding?) -> Failure {
      if let refusal = socket.refusal { return .notBelieved(refusal) }
      return finding == nil ? .unreachable : .silent
    }
    var queue = SendQueue()
    queue.add(.hello(hello))
    queue.add(.watch)
    var intake = FrameIntake()
    var finding: Finding?
    var keys: [BlockKey] = []
    let bell = EventBell()
    let deadline = began + patience
    while MonotonicClock.now() < deadline, keys.count < keysMax {
      if socket.send(&queue) == .closed { throw ended(finding) }
      var messages: [StreamMessage] = []
      var isSound = true
      let outcome = socket.receive(atMost: intake.wanted) { piece in
        do throws(WireError) {
          if let message = try intake.take(piece) { messages.append(message) }
        } catch { isSound = false }
      }
      guard isSound else { throw .senseless }
      for message in messages {
        switch message {
        case .welcome(let welcome):
          finding = Finding(
            name: welcome.name, pools: [], keyCount: 0,
            connectedAfter: MonotonicClock.now() - began)
        case .refused(let reason): throw .refused(reason)
        case .pools(let pools): finding?.pools = pools
        case .snapshot(let page, let isLast):
          keys += page
          guard isLast, var whole = finding else { continue }
          whole.keyCount = keys.count
          return (whole, keys)
        case .changes, .beat: break
        default: throw .senseless
        }
      }
      switch outcome {
      case .bytes: continue
      case .closed: throw ended(finding)
      case .nothing:
        guard MonotonicClock.now() < deadline else { throw .silent }
        _ = bell.wait(
          until: deadline, hearing: [socket.descriptor],
          writable: socket.waitsToSend(!queue.isEmpty) ? [socket.descriptor] : [])
      }
    }
    // One that has more to tell than is needed here.
    guard var whole = finding, !keys.isEmpty else { throw .silent }
    whole.keyCount = keys.count
    return (whole, keys)
  }

  /// Asks for blocks over one connection, and proves them. For tools: a node's own pulls are its `pull` thread's.
  package final class Puller {
    private let socket: StreamSocket
    private var hello: StreamHello?
    private let terms: PoolTerms
    private let bell = EventBell()
    private var memory: [UInt8]
    private let proves: Bool
    /// Where the blocks go, one after another; nil: nowhere.
    private let target: UnsafeMutableRawPointer?
    private var done = 0

    /// - Parameter proves: False measures what the digests cost.
    package init(
      _ address: StreamAddress, of member: PeerName, keeper: TLSKeeper? = nil, hello: StreamHello,
      terms: PoolTerms, proves: Bool = true,
      into target: UnsafeMutableRawPointer? = nil
    ) throws(Failure) {
      self.proves = proves
      self.target = target
      guard let socket = StreamSocket.connect(.init(name: member, address: address), keeper) else {
        throw .unreachable
      }
      self.socket = socket
      self.hello = hello
      self.terms = terms
      memory = Array(repeating: 0, count: terms.blockBytes)
    }

    /// - Returns: How many came, all of them right.
    package func ask(_ keys: [BlockKey]) throws(Failure) -> Int {
      done = 0
      var machine = PullMachine(
        hello: hello, terms: terms, keys: keys, patience: patience, limits: Limits(),
        at: MonotonicClock.now())
      hello = nil
      var (count, found) = (0, [Digest128]())
      let deadline = MonotonicClock.now() + patience
      var running = StreamingDigest()
      while true {
        if socket.send(&machine.outgoing) == .closed { throw .silent }
        var (step, outcome) = receive(&machine, &running)
        if case .arriving(let position) = step {
          // One after another, and none that was not asked for.
          let isNext = position == count && position < keys.count
          found = []
          if isNext { running.begin(key: keys[position], rank: 0) }
          step = machine.place(isNext ? .write(SlotIndex(0), generation: 0) : .invalid)
        }
        switch step {
        case .more, .arriving, .skipped: break
        case .rankWhole:
          found.append(running.value())
          running.begin(key: keys[machine.position], rank: found.count)
        case .blockWhole(_, _, let digests):
          found.append(running.value())
          guard found == digests || !proves else { throw .wrongBytes }
          count += 1
        case .ended(.served), .ended(.lacking): return count
        case .ended(.refused): throw .refused("the connection for blocks")
        case .ended(.busy): throw .refused("it is sending to as many as it may")
        case .ended: throw .senseless
        }
        if outcome == .closed { throw .silent }
        guard outcome == .nothing else { continue }
        let isOver = MonotonicClock.now() >= deadline
        if case .ended = machine.judge(lateness: .zero, at: MonotonicClock.now()) { throw .silent }
        if isOver { throw .silent }
        outcome = .nothing
        _ = bell.wait(
          until: machine.stallsAt, hearing: [socket.descriptor],
          writable: socket.waitsToSend(!machine.outgoing.isEmpty) ? [socket.descriptor] : [])
      }
    }

    private func receive(
      _ machine: inout PullMachine, _ running: inout StreamingDigest
    ) -> (PullMachine.Step, StreamSocket.Outcome) {
      var step = PullMachine.Step.more
      let outcome: StreamSocket.Outcome
      switch machine.need {
      case .frame(let count): outcome = socket.receive(atMost: count) { step = machine.took($0) }
      case .dropped(let count), .body(_, _, _, let count):
        outcome = memory.withUnsafeMutableBytes { buffer in
          let place = target.map { $0 + done } ?? buffer.baseAddress!
          let outcome = socket.receive(into: place, atMost: min(count, buffer.count, 1 << 20))
          if case .bytes(let count) = outcome, proves {
            running.add(UnsafeRawBufferPointer(start: place, count: count))
          }
          return outcome
        }
        if case .bytes(let count) = outcome {
          done += count
          step = machine.took(count)
        }
      }
      if case .bytes = outcome { machine.heard(at: MonotonicClock.now()) }
      return (step, outcome)
    }
  }
}

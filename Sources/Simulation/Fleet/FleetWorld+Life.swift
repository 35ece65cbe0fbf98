import RemoteG2Core

/// How bad one run is.
struct FleetWeights {
  var corruption = 0.0
  var delayMax: Duration = .microseconds(300)
  var driftMax = 0.0
  var nodeCrash = 0.0
  var nodeStop = 0.0
  var hostVanish = 0.0
  var linkCut = 0.0
  var streamCut = 0.0
  var partition = 0.0
  var clog = 0.0
  var engineCrash = 0.0
  var enginePause = 0.0
  var abort = 0.0
  var preempt = 0.0
  var evictionStorm = 0.0
  var stranger = 0.0

  enum Ambient {
    case nodeCrash, nodeStop, hostVanish, linkCut, streamCut, partition, clog, engineCrash
    case enginePause, abort, preempt, evictionStorm, stranger
  }

  init(_ chance: inout Chance) {
    // Each fault is absent from half of the runs.
    func drawn(_ most: Double) -> Double {
      let isOn = chance.happens(0.5)
      let size = chance.unit()
      return isOn ? most * size : 0
    }
    corruption = drawn(0.02)
    if chance.happens(0.3) { delayMax = chance.duration(.milliseconds(1)...(.milliseconds(10))) }
    driftMax = drawn(0.05)
    nodeCrash = drawn(1)
    nodeStop = drawn(1)
    hostVanish = drawn(0.5)
    linkCut = drawn(1)
    streamCut = drawn(1)
    partition = drawn(1)
    clog = drawn(1)
    engineCrash = drawn(0.5)
    enginePause = drawn(1)
    abort = drawn(1)
    preempt = drawn(1)
    evictionStorm = drawn(1)
    stranger = drawn(1)
  }

  var ambient: [(Ambient, Double)] {
    [
      (.nodeCrash, nodeCrash), (.nodeStop, nodeStop), (.hostVanish, hostVanish),
      (.linkCut, linkCut), (.streamCut, streamCut), (.partition, partition), (.clog, clog),
      (.engineCrash, engineCrash), (.enginePause, enginePause), (.abort, abort),
      (.preempt, preempt), (.evictionStorm, evictionStorm), (.stranger, stranger),
    ].filter { $0.1 > 0 }
  }
}

/// Requests that come, processes that start, stop and die, and a network that misbehaves.
extension FleetWorld {
  func startNode(_ node: FleetNode) {
    let process = FleetProcess(self, node)
    if !idsEver.insert(process.incarnation).inserted {
      violate(.namesNeverReused, "\(process.incarnation) was drawn twice")
    }
    node.process = process
  }

  func planArrival() {
    plan(after: chance.duration(.microseconds(100)...(.milliseconds(6)))) { [unowned self] in
      guard !isHealed else { return }
      let engine = chance.pick(nodes.flatMap(\.engines))
      // Few enough for every one to come to its turn.
      if !engine.isPaused, engine.requests.count < 12 { engine.arrive(drawPrompt(engine)) }
      planArrival()
    }
  }

  /// One of a few long prefixes, cut somewhere, with a tail of its own.
  private func drawPrompt(_ engine: FleetEngine) -> [BlockKey] {
    let prefix = UInt64(chance.below(5))
    let shared = chance.between(1...8)
    let own = chance.below(3)
    let tail = chance.next() >> 8
    let most = engine.blockCount - 2
    // A key tells models apart, as the scope does.
    let scope = UInt64(engine.model) << 62
    return Array(
      ((0..<shared).map { BlockKey(high: scope | prefix + 1, low: UInt64($0)) }
        + (0..<own).map { BlockKey(high: scope | tail >> 3 | 1 << 60, low: UInt64($0)) }).prefix(
          most))
  }

  func planAmbient() {
    plan(after: chance.duration(.microseconds(200)...(.milliseconds(12)))) { [unowned self] in
      guard !isHealed else { return }
      let total = weights.ambient.reduce(0) { $0 + $1.1 }
      var drawn = chance.unit() * max(total, 4)
      for (fault, weight) in weights.ambient {
        if drawn < weight {
          stats.faults += 1
          happen(fault)
          break
        }
        drawn -= weight
      }
      planAmbient()
    }
  }

  private func happen(_ fault: FleetWeights.Ambient) {
    let node = chance.pick(nodes)
    switch fault {
    case .nodeCrash: killNode(node, silently: false)
    case .hostVanish: killNode(node, silently: true)
    case .nodeStop:
      node.stop()
      after(.milliseconds(1)...(.milliseconds(300))) { node.goOn() }
    case .linkCut:
      cutLink(node)
    case .streamCut:
      guard let process = node.process else { return }
      let sockets =
        process.serves.map(\.socket) + process.watches.compactMap(\.socket)
        + process.pulls.sorted { $0.key < $1.key }.map(\.value.socket)
      sockets.randomPick(&chance)?.peer?.close(abruptly: true)
    case .partition:
      let other = chance.pick(nodes)
      guard other !== node else { return }
      let pair = [min(node.index, other.index), max(node.index, other.index)]
      partitions.insert(pair)
      after(.milliseconds(2)...(.milliseconds(300))) { [unowned self] in partitions.remove(pair) }
    case .clog:
      clogFactor = chance.between(2...40)
      after(.milliseconds(2)...(.milliseconds(100))) { [unowned self] in clogFactor = 1 }
    case .engineCrash:
      guard let place = node.engines.indices.randomPick(&chance) else { return }
      let old = node.engines[place]
      old.die()
      stats.restarts += 1
      node.engines[place] = FleetEngine(self, node, model: old.model)
    case .enginePause:
      guard let engine = node.engines.randomPick(&chance) else { return }
      engine.pause()
      after(.milliseconds(1)...(.milliseconds(900))) { [weak engine] in engine?.goOn() }
    case .abort:
      guard let engine = node.engines.randomPick(&chance), !engine.isPaused,
        let id = engine.requests.keys.sorted().randomPick(&chance)
      else { return }
      engine.abort(id)
    case .preempt:
      guard let engine = node.engines.randomPick(&chance), !engine.isPaused,
        engine.inStep == nil
      else { return }
      let running = engine.requests.values.filter { $0.state == .running }.map(\.id).sorted()
      if let id = running.randomPick(&chance) { engine.preempt(id) }
    case .evictionStorm:
      guard let engine = node.engines.randomPick(&chance), let link = engine.link else { return }
      _ = link.send(.evict(1))
    case .stranger: comeStranger(node)
    }
  }

  /// Best while something is being copied: its lease goes, and its slots may be another's before the copy is over.
  private func cutLink(_ node: FleetNode) {
    let copying = nodes.flatMap(\.engines).filter { $0.inStep?.plan.loads.isEmpty == false }
    guard chance.happens(0.8), let engine = copying.randomPick(&chance) else {
      guard let engine = node.engines.randomPick(&chance) else { return }
      let links = [engine.link].compactMap { $0 } + engine.ranks.compactMap(\.link)
      links.randomPick(&chance)?.end()
      return
    }
    engine.link?.end()
    guard chance.happens(0.7) else { return }
    for other in engine.node.engines where other !== engine { _ = other.link?.send(.evict(1)) }
  }

  private func after(_ range: ClosedRange<Duration>, _ run: @escaping () -> Void) {
    plan(after: chance.duration(range), run)
  }

  private func killNode(_ node: FleetNode, silently isSilent: Bool) {
    guard let process = node.process else { return }
    stats.restarts += 1
    process.die(silently: isSilent)
    node.process = nil
    node.forgetHeld()
    after(.milliseconds(1)...(.milliseconds(150))) { [unowned self] in
      if node.process == nil { startNode(node) }
    }
  }

  /// Connects, says something that no member says, or half of something, and reads nothing.
  private func comeStranger(_ node: FleetNode) {
    let (near, far) = FleetSocket.pair(self, node.index, node.index)
    accept(far, at: node)
    strangers.append(near)
    var bytes: [UInt8]
    if chance.happens(0.5) {
      bytes = (0..<chance.between(1...60)).map { _ in UInt8(truncatingIfNeeded: chance.next()) }
    } else {
      let terms = PoolTerms(fingerprint: fingerprint(of: 0), blockBytes: blockBytes)
      let keys = (0..<8).map { BlockKey(high: 1, low: UInt64($0)) }
      bytes =
        StreamCodec.encode(
          .hello(StreamHello(node: Incarnation(high: 9, low: 9), name: "X", terms: terms)))
        + StreamCodec.encode(.ask(keys: keys, isLast: true))
      bytes = Array(bytes.prefix(chance.happens(0.5) ? bytes.count : chance.below(bytes.count)))
    }
    _ = bytes.withUnsafeBytes { near.send($0) }
    if chance.happens(0.3) {
      after(.milliseconds(1)...(.milliseconds(50))) { near.close(abruptly: true) }
    }
  }

  /// No more faults: everything comes back.
  func heal() {
    isHealed = true
    partitions = []
    clogFactor = 1
    for stranger in strangers { stranger.close() }
    for node in nodes {
      if node.process == nil { startNode(node) }
      node.goOn()
      for engine in node.engines { engine.goOn() }
    }
  }
}

extension RandomAccessCollection {
  func randomPick(_ chance: inout Chance) -> Element? {
    isEmpty ? nil : self[index(startIndex, offsetBy: chance.below(count))]
  }
}

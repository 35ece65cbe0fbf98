import RemoteG2Core

/// A connection of an engine, or of one of its ranks, to its node: packets in order, and an end.
final class FleetLink {
  /// Packets that wait for who does not read.
  private static let packetsMax = 64

  private unowned let world: FleetWorld
  /// Never reused.
  let serial: UInt64
  let node: FleetNode
  let engine: FleetEngine
  /// At the node; nil: it was closed at once.
  var id: ConnectionID?
  /// As of the node's life at its other end.
  var known: FleetKnownKeys?
  private(set) var isClosed = false
  private var toNode: [LocalMessage] = []
  private var toEngine: [LocalMessage] = []
  /// The engine's side.
  var onMessage: (LocalMessage) -> Void = { _ in }
  var onEnd: () -> Void = {}

  init(_ world: FleetWorld, _ node: FleetNode, _ engine: FleetEngine) {
    self.world = world
    serial = world.nextLink()
    self.node = node
    self.engine = engine
  }

  // MARK: The engine's side

  /// - Returns: False when the node is away.
  func send(_ message: LocalMessage) -> Bool {
    guard !isClosed, toNode.count < Self.packetsMax else { return false }
    toNode.append(message)
    world.plan(after: world.localDelay()) { [self] in deliverToNode() }
    return true
  }

  private func deliverToNode() {
    guard !isClosed, !toNode.isEmpty, let process = node.process, let id else { return }
    node.whenRunning { [self] in
      guard !isClosed, !toNode.isEmpty else { return }
      process.received(toNode.removeFirst(), from: id, over: self)
    }
  }

  // MARK: The node's side

  func deliver(_ message: LocalMessage) {
    guard !isClosed else { return }
    toEngine.append(message)
    world.plan(after: world.localDelay()) { [self] in
      engine.whenRunning { [self] in
        guard !toEngine.isEmpty else { return }
        let message = toEngine.removeFirst()
        // What was sent before the end is read before it.
        onMessage(message)
      }
    }
  }

  /// What a rank reads when it looks.
  func takeAll() -> [LocalMessage]? {
    defer { toEngine = [] }
    return isClosed && toEngine.isEmpty ? nil : toEngine
  }

  // MARK: The end

  /// Either side has closed it, or died.
  func end() {
    guard !isClosed else { return }
    isClosed = true
    toNode = []
    if let process = node.process, let id {
      node.whenRunning { process.left(id) }
    }
    world.plan(after: world.localDelay()) { [self] in engine.whenRunning { [self] in onEnd() } }
  }
}

import RemoteG2Core

/// One end of a simulated TCP connection: bytes in order, a bounded window, an end that may never be heard.
final class FleetSocket {
  enum Outcome: Equatable {
    case bytes([UInt8])
    case nothing
    case closed
  }

  private unowned let world: FleetWorld
  /// The host it is on.
  let host: Int
  private let capacity: Int
  private(set) weak var peer: FleetSocket?
  /// Sent, and not at the other end; an empty piece is the end.
  private var underWay: [[UInt8]] = []
  private var underWayCount = 0
  private var inbox: [UInt8] = []
  private var isBlocked = false
  private(set) var isClosed = false
  /// The other end's end has been heard.
  private(set) var isEnded = false
  /// There may be something to read, or room to send.
  var wake: () -> Void = {}

  init(_ world: FleetWorld, on host: Int, capacity: Int) {
    self.world = world
    self.host = host
    self.capacity = capacity
  }

  static func pair(_ world: FleetWorld, _ near: Int, _ far: Int) -> (FleetSocket, FleetSocket) {
    let capacity = world.chance.pick([40, 200, 4000])
    let (a, b) = (
      FleetSocket(world, on: near, capacity: capacity),
      FleetSocket(world, on: far, capacity: capacity)
    )
    a.peer = b
    b.peer = a
    return (a, b)
  }

  /// - Returns: How many bytes are on their way; nil: the connection is over.
  func send(_ bytes: UnsafeRawBufferPointer) -> Int? {
    guard !isClosed, !isEnded else { return nil }
    let room = capacity - underWayCount - (peer?.inbox.count ?? 0)
    let count = min(room, bytes.count)
    guard count > 0 else {
      isBlocked = true
      return 0
    }
    var piece = Array(bytes.prefix(count))
    world.mayCorrupt(&piece)
    underWayCount += count
    put(piece)
    return count
  }

  private func put(_ piece: [UInt8]) {
    underWay.append(piece)
    world.plan(after: world.networkDelay()) { [self] in arrive() }
  }

  private func arrive() {
    guard let peer, !underWay.isEmpty else { return }
    // The network repeats what was lost until it arrives.
    guard world.reaches(host, peer.host) else {
      return world.plan(after: .milliseconds(3)) { [self] in arrive() }
    }
    let piece = underWay.removeFirst()
    underWayCount -= piece.count
    guard !peer.isClosed else { return }
    if piece.isEmpty { peer.isEnded = true } else { peer.inbox += piece }
    peer.wake()
  }

  func receive(atMost count: Int) -> Outcome {
    guard !isClosed else { return .closed }
    guard !inbox.isEmpty else { return isEnded ? .closed : .nothing }
    let taken = Array(inbox.prefix(count))
    inbox.removeFirst(taken.count)
    if let peer, peer.isBlocked {
      peer.isBlocked = false
      world.plan(after: world.networkDelay()) { peer.wake() }
    }
    return .bytes(taken)
  }

  /// - Parameter isAbrupt: What is on its way is lost with it.
  func close(abruptly isAbrupt: Bool = false) {
    guard !isClosed else { return }
    isClosed = true
    wake = {}
    if isAbrupt {
      underWay = []
      underWayCount = 0
    }
    put([])
  }

  /// Its host is gone: the other end hears nothing, ever.
  func vanish() {
    isClosed = true
    wake = {}
    underWay = []
  }
}

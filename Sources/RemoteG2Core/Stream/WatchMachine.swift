/// Another member's feed, as the node that listens to it sees it: connected, welcomed, heard, and opened anew when it
/// has ended or says nothing.
///
/// Pure. The shell owns the socket and carries the orders out.
package struct WatchMachine: Sendable {
  package enum Order: Equatable, Sendable {
    /// Answered by ``connected(at:)`` or ``ended(_:_:at:)``.
    case connect
    case close
    /// An operator should know.
    case tell(String)
  }

  package let member: PeerName
  /// Whether it must have that name.
  private let isNamed: Bool
  /// For what is told.
  private let address: String
  private let hello: StreamHello
  private let limits: Limits
  /// What waits to be sent.
  package var outgoing = SendQueue()
  private var intake = FrameIntake()
  private var isConnected = false
  private var isWelcomed = false
  private var connectedAt: LocalInstant
  private var heardAt: LocalInstant
  private var connectAt: LocalInstant
  private var pause: Duration
  /// What was last said of it.
  private var told = ""

  package init(
    _ member: PeerName, isNamed: Bool = true, at address: String, as hello: StreamHello,
    limits: Limits, from now: LocalInstant
  ) {
    self.member = member
    self.isNamed = isNamed
    self.address = address
    self.hello = hello
    self.limits = limits
    connectedAt = now
    heardAt = now
    connectAt = now
    pause = limits.ownRetryMin
  }

  /// How many bytes of a frame may be received. Never 0.
  package var wanted: Int { intake.wanted }

  package var nextDeadline: LocalInstant {
    isConnected ? heardAt + limits.feedSilenceMax : connectAt
  }

  package mutating func timePassed(_ core: inout NodeCore, at now: LocalInstant) -> [Order] {
    guard nextDeadline <= now else { return [] }
    guard !isConnected else { return ended(nil, isSilent: true, &core, at: now) }
    isConnected = true
    isWelcomed = false
    connectedAt = now
    heardAt = now
    intake = FrameIntake()
    outgoing = SendQueue()
    outgoing.add(.hello(hello))
    outgoing.add(.watch)
    return [.connect]
  }

  /// - Parameters:
  ///   - piece: At most ``wanted`` bytes.
  ///   - names: Of its certificate; nil where none is shown.
  package mutating func took(
    _ piece: UnsafeRawBufferPointer, from names: [String]? = nil, _ core: inout NodeCore,
    at now: LocalInstant
  ) -> [Order] {
    do throws(WireError) {
      guard let message = try intake.take(piece) else { return [] }
      heardAt = now
      return said(message, from: names, &core, at: now)
    } catch { return ended("it says what no node says: \(error)", &core, at: now) }
  }

  private mutating func said(
    _ message: StreamMessage, from names: [String]?, _ core: inout NodeCore, at now: LocalInstant
  ) -> [Order] {
    switch message {
    case .welcome(let welcome) where !isWelcomed:
      isWelcomed = true
      if let reason = HandshakeRefusal.imposture(of: welcome.name, names: names) {
        return ended(reason, &core, at: now)
      }
      guard let refusal = core.watched(member, as: welcome, after: now - connectedAt) else {
        pause = limits.ownRetryMin
        return tell(
          welcome.name == member
            ? "\(member) is connected" : "\(welcome.name) at \(member) is connected")
      }
      // A name service tells all of a fleet's addresses, ours with them.
      guard refusal != .itself || isNamed else {
        pause = limits.ownAddressPause
        return ended(nil, isSilent: true, isKnown: false, &core, at: now)
      }
      if case .twice = refusal, !isNamed { pause = limits.ownAddressPause }
      return ended(refusal.reason(at: address), &core, at: now)
    case .refused(let reason): return ended(reason, &core, at: now)
    case _ where isWelcomed:
      guard core.heard(message, from: member) else {
        return ended("its feed makes no sense", &core, at: now)
      }
      guard case .pools = message, let mismatch = core.mismatch(with: member) else { return [] }
      return tell("\(member) cannot share with this node's engine: \(mismatch)")
    default: return ended("it says what no node says", &core, at: now)
    }
  }

  /// The connection has ended, or could not be made.
  ///
  /// - Parameters:
  ///   - reason: What is to be told of it; nil: nothing but that.
  ///   - isSilent: It was not the other end that closed it.
  ///   - isKnown: An operator should know that it is away.
  package mutating func ended(
    _ reason: String?, isSilent: Bool = false, isKnown: Bool = true, _ core: inout NodeCore,
    at now: LocalInstant
  ) -> [Order] {
    let isUnwelcome = isConnected && !isWelcomed && outgoing.isEmpty && !isSilent
    let orders =
      !isKnown
      ? []
      : isWelcomed || reason != nil
        ? tell("\(member) is away: \(reason ?? "its connection ended")")
        : isUnwelcome
          ? tell(
            "\(member) ends connections before it says who it is: start all nodes with "
              + "--tls-certificate, or none") : []
    isConnected = false
    isWelcomed = false
    outgoing = SendQueue()
    core.lost(member, because: reason)
    connectAt = now + pause
    pause = min(pause * 2, limits.ownRetryMax)
    return orders + [.close]
  }

  private mutating func tell(_ what: String) -> [Order] {
    guard what != told else { return [] }
    told = what
    return [.tell(what)]
  }
}

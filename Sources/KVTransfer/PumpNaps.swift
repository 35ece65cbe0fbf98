/// How long a pump's thread sleeps when it had nothing to do: 0.1 ms, then twice as long each time, up to 1 ms,
/// or to 20 ms where a descriptor of the transport ends the nap.
///
/// A descriptor that woke the thread for nothing, because bytes come and no transfer has ended yet, is not
/// listened to in the next nap, which grows likewise: listening then costs no more than polling does.
package struct PumpNaps: Equatable, Sendable {
  package enum Nap: Equatable, Sendable {
    /// Until an order comes, or so long.
    case deaf(Duration)
    /// Until an order comes or a descriptor is readable, or so long.
    case hearing(Duration)
  }

  /// What ended a nap that was hearing.
  package enum Waking: Equatable, Sendable { case descriptor, order, time }

  package static let shortest: Duration = .microseconds(100)
  package static let longest: Duration = .milliseconds(1)
  package static let longestHearing: Duration = .milliseconds(20)
  /// With nothing posted or queued only an order can bring work.
  package static let idle: Duration = .seconds(3600)

  private var nap = PumpNaps.shortest
  private var deafNap = PumpNaps.shortest
  private var isDeaf = false

  package init() {}

  /// Something happened: the thread comes back at once, and its next nap is short.
  package mutating func worked() { self = PumpNaps() }

  /// Nothing happened.
  ///
  /// - Parameters:
  ///   - isIdle: Nothing is posted or queued.
  ///   - canHear: The transport has descriptors that tell when a poll is worth while.
  package mutating func next(isIdle: Bool, canHear: Bool) -> Nap {
    if isIdle { return .deaf(Self.idle) }
    if isDeaf {
      defer {
        deafNap = min(deafNap * 2, Self.longest)
        isDeaf = false
      }
      return .deaf(deafNap)
    }
    if canHear { return .hearing(nap) }
    defer { nap = min(nap * 2, Self.longest) }
    return .deaf(nap)
  }

  /// A nap that was hearing ended.
  package mutating func woke(by waking: Waking) {
    switch waking {
    case .descriptor: (nap, isDeaf) = (Self.shortest, true)
    case .order: break
    case .time:
      nap = min(nap * 2, Self.longestHearing)
      deafNap = Self.shortest
    }
  }
}

/// Every bound in one place. A queue, table, loop, retry or message without an entry here is a bug.
public struct Limits: Sendable, Equatable {
  // Store.
  public var leasesMax = 1024
  /// Of the pool's slots, how many leases may pin at once.
  public var pinnedFractionMax = 0.75
  public var leaseTTL: Duration = .seconds(30)
  public var leaseTTLMax: Duration = .seconds(120)
  /// A finished lease still answers confirm and release for one TTL; this many at most.
  public var leasesRememberedMax = 4096
  /// A reservation whose writer vanished is taken back after this long.
  public var reservationMax: Duration = .seconds(30)

  // Fetch.
  public var fetchesInFlightMax = 64
  public var blocksPerFetchMax = 4096
  public var transferBlocksMax = 16
  public var transferBytesMax = 4 << 20
  /// Posted to one source at a time. More of them make a dying reader more dangerous to a source.
  public var transfersPostedMax = 4
  public var resolveMin: Duration = .milliseconds(50)
  public var resolveMax: Duration = .milliseconds(500)
  public var softDeadlineMin: Duration = .milliseconds(50)
  public var hardDeadline: Duration = .seconds(30)
  public var handshakeTimeout: Duration = .seconds(1)
  public var peerNotReadyWaitMax: Duration = .milliseconds(100)
  /// Target blocks that may sit in quarantine, as a share of G1: in all, and for one source.
  public var quarantineFractionMax = 0.5
  public var quarantinePerSourceFractionMax = 0.25
  public var agentsMax = 64
  /// Fetches from one peer at a time; more would only wait for each other at the source.
  public var fetchesPerPeerMax = 16
  /// Our own timer may be this late before a missed deadline stops to say something about the peer.
  public var timerLatenessMax: Duration = .milliseconds(5)

  // Breaker, one per peer.
  public var breakerMissesMax = 3
  public var breakerSilence: Duration = .seconds(1)
  public var breakerBackoffMin: Duration = .milliseconds(50)
  public var breakerBackoffMax: Duration = .seconds(10)
  /// Dead incarnations whose late answers are still recognised; those take a call's time at most.
  public var deadRememberedMax = 256

  // Engine.
  public var stepTokensMax = 128
  public var requestsMax = 1024
  public var promptTokensMax = 8192
  public var storeSavesInFlightMax = 128

  // Wire.
  public var messageBytesMax = 4 << 20
  public var metadataBytesMax = 64 << 10
  /// Slots a peer may announce.
  public var slotsMax = 1 << 20
  public var peersMax = 64
  public var hintBytesMax = 4096
  public var commandBytesMax = 1 << 20
  /// A worker's events that wait for their reader.
  public var eventsWaitingMax = 1 << 16
  /// One step's plan, or one rank's report, between processes.
  public var groupMessageBytesMax = 64 << 20
  /// How long a rank waits for its group before it ends: while they load the model, and later. mpirun
  /// then takes about two seconds to end the others, and a broken group is to be gone within ten.
  public var groupStartMax: Duration = .seconds(120)
  public var groupSilenceMax: Duration = .seconds(6)

  public init() { check() }

  /// The relations between limits, each with its reason.
  public func check() {
    precondition(leaseTTL <= leaseTTLMax, "a default lease must be grantable")
    precondition(
      resolveMin <= resolveMax && resolveMax < leaseTTL,
      "a grant must outlive the wait for it")
    precondition(
      hardDeadline <= leaseTTLMax, "a renewed lease must be able to cover a whole fetch")
    precondition(transferBlocksMax >= 1 && transfersPostedMax >= 1, "a pull must be able to move")
    precondition(
      pinnedFractionMax > 0 && pinnedFractionMax < 1,
      "an owner must always be able to evict something")
    precondition(
      blocksPerFetchMax * 64 <= messageBytesMax, "a grant for the longest fetch must fit a message")
    precondition(
      quarantinePerSourceFractionMax <= quarantineFractionMax && quarantineFractionMax < 1,
      "one peer must never be able to take the whole of G1")
    precondition(
      breakerBackoffMin > .zero && breakerBackoffMin <= breakerBackoffMax,
      "a peer that came back must be asked again")
    precondition(
      metadataBytesMax * 4 * 64 <= groupMessageBytesMax / 2,
      "a source of 64 ranks, written as text, must fit a plan")
    precondition(stepTokensMax >= 1 && promptTokensMax >= 2, "a request must be able to step")
  }
}

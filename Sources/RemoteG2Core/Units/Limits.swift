/// The bounds of the protocol and of the engine, in one place: whoever adds a queue, a table, a loop, a retry
/// or a message gives it an entry here. A file reader's and a shell's own bounds are constants beside their
/// one use.
///
/// Limits never change. Other ones are made from these, and whatever is made has its relations checked:
/// `Limits { $0.leasesMax = 2 }`.
@dynamicMemberLookup
public struct Limits: Sendable, Equatable {
  @usableFromInline let values: Values

  /// - Parameter change: What is to be other than it is by default. Values that contradict each other are
  ///   our bug.
  public init(_ change: (inout Values) -> Void = { _ in }) {
    var values = Values()
    change(&values)
    if let contradiction = values.contradiction { preconditionFailure(contradiction) }
    self.values = values
  }

  @inlinable
  public subscript<Value>(dynamicMember path: KeyPath<Values, Value>) -> Value {
    values[keyPath: path]
  }
}

extension Limits {
  /// The bounds by name, while they are being set.
  public struct Values: Sendable, Equatable {
    package init() {}

    // Store.
    public var leasesMax = 1024
    /// Of the pool's slots, how many leases may pin at once.
    public var pinnedFractionMax = 0.75
    public var leaseTTL: Duration = .seconds(30)
    public var leaseTTLMax: Duration = .seconds(120)
    /// A lease that has ended still answers confirm and release for one TTL, while live and ended leases
    /// together are at most this many.
    public var leasesRememberedMax = 4096
    /// Of the pool's slots, how many blocks that were used once are spared while others could go: at first, and within
    /// which bounds that follows what comes back after it was evicted.
    public var probationShare = 0.3
    public var probationShareMin = 0.05
    public var probationShareMax = 0.95
    /// Evicted blocks that are remembered: so many for each block that the fleet holds, and so many at most.
    public var evictionsRememberedPerBlock = 4
    public var evictionsRememberedMax = 1 << 18

    // The local protocol.
    public var localConnectionsMax = 256
    public var localEnginesMax = 16
    /// Blocks that one rank can have staged at once.
    public var stagingSlotsMax = 32
    /// How long a block waits for a staging slot before its save is dropped.
    public var stagingWaitMax: Duration = .seconds(1)
    public var ownHeartbeat: Duration = .milliseconds(250)
    /// An own store that says nothing for this long is not asked any more until it answers again.
    public var ownSilenceMax: Duration = .seconds(1)
    /// How long a worker that starts waits for its store before it says that it is ready without.
    public var storeAttachMax: Duration = .seconds(10)
    /// An own store that has not said anything about a question for this long is not waited for.
    public var ownAnswerMax: Duration = .milliseconds(100)
    /// Bytes that one rank stages in one step of an engine that owns its memory itself; one block at least.
    public var stepStageBytesMax = 256 << 20
    public var ownRetryMin: Duration = .milliseconds(20)
    public var ownRetryMax: Duration = .milliseconds(250)
    /// Blocks an engine remembers that its store lacked when they were used.
    public var unsavedMax = 4096

    // Fetch.
    public var fetchesInFlightMax = 64
    public var blocksPerFetchMax = 4096
    public var transferBlocksMax = 16
    public var transferBytesMax = 4 << 20
    /// Posted to one source at a time. More of them make a dying reader more dangerous to a source.
    public var transfersPostedMax = 4
    public var resolveMin: Duration = .milliseconds(50)
    public var resolveMax: Duration = .milliseconds(500)
    /// A load counts as stalled when nothing has landed for four times what one transfer was estimated to
    /// take, but at least this long, while the rank's own pump ran on time. It is then stopped.
    public var stallMin: Duration = .milliseconds(150)
    /// A pump that comes later than this was late itself: the source is charged `pumpLateCharge` only.
    public var pumpGapMax: Duration = .milliseconds(30)
    public var pumpLateCharge: Duration = .milliseconds(10)
    /// By how much the rest of a pull may take longer than computing it.
    public var regretMax = 0.1
    /// However a pull goes on, it is given up after this many times what computing it would take, but
    /// not before `hardDeadlineMin` and not after `hardDeadline`.
    public var hardDeadlineFactor = 3.0
    public var hardDeadlineMin: Duration = .seconds(2)
    public var hardDeadline: Duration = .seconds(30)
    public var handshakeTimeout: Duration = .seconds(1)
    public var peerNotReadyWaitMax: Duration = .milliseconds(100)
    /// Target blocks that may sit in quarantine, as a share of G1: in all, and for one source.
    public var quarantineFractionMax = 0.5
    public var quarantinePerSourceFractionMax = 0.25
    public var agentsMax = 64
    /// Fetches from one peer at a time; more would only wait for each other at the source.
    public var fetchesPerPeerMax = 16
    /// Whoever looks at its clock this much later than it meant to was stopped itself, and has heard nobody
    /// meanwhile: the silence that it measures is counted anew, once.
    public var pauseMin: Duration = .milliseconds(100)
    /// A missed deadline that our own timer judged later than this says nothing about the peer.
    public var timerLatenessMax: Duration = .milliseconds(5)

    // Peers.
    public var peerHeartbeat: Duration = .milliseconds(500)
    /// How long a peer that may not share with us is left alone.
    public var peerRefusedPause: Duration = .seconds(1)
    /// A peer is dead when its address refused this often, over at least this long.
    public var deathRefusalsMin = 3
    public var deathRefusalsSpan: Duration = .milliseconds(150)
    /// A peer that neither answers nor refuses for this long is given up: what it could still write is
    /// fenced.
    public var peerVanishedMax: Duration = .seconds(180)
    /// A release that is not answered is sent this often in all; then the lease's deadline ends it.
    public var releaseAttemptsMax = 3

    // Breaker, one per peer.
    public var breakerMissesMax = 3
    public var breakerSilence: Duration = .seconds(1)
    public var breakerBackoffMin: Duration = .milliseconds(50)
    public var breakerBackoffMax: Duration = .seconds(10)

    // Node.
    /// Questions of own engines that are not answered yet.
    public var waitersMax = 1024
    /// Answers that other members are sending at once.
    public var pullsMax = 32
    /// Answers that are being sent to other members at once.
    public var streamsMax = 64
    /// Of these, so many of one prefix that began so short a time ago: who wants it too takes it from those that are
    /// being sent it, looking for them again and again for a while.
    public var answersPerPrefixMax = 4
    public var spreadAge: Duration = .milliseconds(100)
    public var spreadPause: Duration = .milliseconds(10)
    public var spreadWaitMax: Duration = .milliseconds(200)
    /// Bytes of blocks that one answer pins at once; one block at least.
    public var streamWindowBytes = 8 << 20
    /// A member that is asked for blocks and sends no byte for this long is given up, or for three times as long
    /// as its first byte usually takes, if that is longer.
    public var streamStallMin: Duration = .milliseconds(100)
    public var streamStallMax: Duration = .milliseconds(400)
    /// How fast a member sends is looked at after this time, or twice what its first byte took, if that is longer; before its first
    /// block is whole it is given up if all would take so many times as long as computing.
    public var paceSpanMin: Duration = .milliseconds(25)
    public var paceDoubt = 2.0
    /// A member's speed counts for so long after it was measured.
    public var rateKeptFor: Duration = .seconds(10)
    /// A connection to a node that does not say who it is is closed after this time.
    public var strangerMax: Duration = .seconds(10)
    /// An address that turned out to be a node's own is tried again after this time.
    public var ownAddressPause: Duration = .seconds(30)
    /// Between two questions to a name service about the same members.
    public var lookUpEvery: Duration = .seconds(5)
    /// How long a node's entry in a registry outlives it, the longest pause between two attempts to reach one, and how
    /// many entries are looked at.
    public var registryLease: Duration = .seconds(10)
    public var registryRetryMax: Duration = .seconds(3)
    public var registryEntriesMax = 256
    /// A registry answers within this time, and is looked at as a whole at least so often.
    public var registryCallMax: Duration = .seconds(2)
    public var registryWatchMax: Duration = .seconds(30)
    /// A node that is told to leave waits for so long for what it is sending, at most.
    public var drainMax: Duration = .seconds(10)
    /// After the process that serves for a keeper was killed, or its connection has ended: how long it may take until
    /// it is seen to have ended.
    public var reapMax: Duration = .seconds(2)
    /// How long a node waits for its name while another process that does not answer still has it: one that was killed, or
    /// that is told to leave.
    public var nameWaitMax: Duration = .seconds(15)
    /// How long the process that is to serve for a keeper may take until it says that it does, before it is killed.
    public var serveStartMax: Duration = .seconds(30)
    /// A process that has served for less than this, twice in a row, leaves nothing to the next; and between the lives
    /// after that there is a pause, at first, and at most.
    public var lifeShortMax: Duration = .seconds(1)
    public var restartPause: Duration = .milliseconds(50)
    public var restartPauseMax: Duration = .seconds(5)
    /// How long one that begins to serve waits for what its keeper hands it.
    public var handoverMax: Duration = .seconds(5)
    /// Between two lines that tell of connections that were refused for one reason.
    public var refusalTellPause: Duration = .seconds(60)
    /// A reader that takes less than `readerProgressBytes` in this time, though there is more for it, is cut off.
    public var readerStallMax: Duration = .seconds(2)
    public var readerProgressBytes = 1 << 20
    /// Connections to one member that are kept for the next question.
    public var streamsIdleMax = 4
    /// Connections from other members.
    public var streamConnectionsMax = 256
    /// Threads that send to other members: a connection stays with the one that accepted it.
    public var streamThreads = 2
    /// Changes that a feed remembers for watchers that are behind.
    public var feedChangesMax = 1 << 18
    /// So many bytes of one answer that has arrived wake watchers; less of it they hear with what comes next.
    public var feedWakeBytes = 4 << 20
    /// Pause after which a feed that has nothing to tell gives a sign of life.
    public var feedBeat: Duration = .milliseconds(500)
    /// A feed that says nothing for this long is opened anew.
    public var feedSilenceMax: Duration = .milliseconds(1500)
    /// Keys that are remembered of one member.
    public var indexKeysMax = 4 << 20
    /// Of the table in which engines look up whether a key is worth asking for; a power of two. With more keys
    /// than a sixteenth of it, more of them are asked for in vain.
    public var knownKeysBytes = 16 << 20
    /// How long the process that peers read a pool from may take to be ready for them.
    public var agentStartMax: Duration = .seconds(20)
    /// One that served for less counts as one that never did.
    public var agentLifeMin: Duration = .seconds(5)
    /// Pause before another is started; it doubles with each in a row that ended at once.
    public var agentPauseMin: Duration = .milliseconds(50)
    public var agentPauseMax: Duration = .seconds(5)

    // Engine.
    public var stepTokensMax = 128
    /// Tokens of long prompts in a step while another request's prefix is looked for or under way: what has landed
    /// is taken at the end of a step, and each stage of a pull waits for one.
    public var stepTokensBesideLoads = 32
    public var requestsMax = 1024
    public var promptTokensMax = 8192
    public var storeSavesInFlightMax = 128
    /// Steps in a row in which a prompt may be overtaken by those with less left to compute.
    public var overtakenStepsMax = 8

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
    /// Blocks that the orders of one plan may name, over all fetches; the rest is told with the next plan.
    public var planBlocksMax = 16 << 10
    /// One step's plan, or one rank's report, between processes.
    public var groupMessageBytesMax = 64 << 20
    /// How long a rank waits for its group before it ends: while they load the model, and later. mpirun
    /// then takes about two seconds to end the others, and a broken group is to be gone within ten.
    public var groupStartMax: Duration = .seconds(120)
    public var groupSilenceMax: Duration = .seconds(6)
  }
}

extension Limits.Values {
  /// The relations between limits, each with its reason.
  private var relations: [(holds: Bool, reason: String)] {
    [
      (leaseTTL <= leaseTTLMax, "a default lease must be grantable"),
      (
        resolveMin <= resolveMax && resolveMax < leaseTTL, "a grant must outlive the wait for it"
      ),
      (
        hardDeadlineMin <= hardDeadline && stallMin <= hardDeadline && regretMax >= 0,
        "a pull must be able to end by itself"
      ),
      (
        pumpLateCharge <= pumpGapMax,
        "our own lateness must not cost a source more than its silence"
      ),
      (
        stagingSlotsMax >= 1 && storeSavesInFlightMax >= 1 && overtakenStepsMax >= 1,
        "a block must be able to be saved, and a long prompt to be computed"
      ),
      (
        planBlocksMax >= blocksPerFetchMax
          && planBlocksMax * 64 * 17 + blocksPerFetchMax * 64 * 17 <= groupMessageBytesMax,
        "the largest orders of one fetch must fit a plan, with a digest for each of 64 ranks"
      ),
      (
        deathRefusalsMin >= 2 && peerVanishedMax > hardDeadline,
        "one sign is not a death, and silence is not one before every fetch has ended"
      ),
      (hardDeadline <= leaseTTLMax, "a renewed lease must be able to cover a whole fetch"),
      (transferBlocksMax >= 1 && transfersPostedMax >= 1, "a pull must be able to move"),
      (
        pinnedFractionMax > 0 && pinnedFractionMax < 1,
        "an owner must always be able to evict something"
      ),
      (
        probationShareMin > 0 && probationShareMin <= probationShare
          && probationShare <= probationShareMax && probationShareMax < 1,
        "new blocks and old ones must both have a part of the pool"
      ),
      (
        evictionsRememberedPerBlock >= 0 && evictionsRememberedMax >= 0,
        "no fewer than none can be remembered"
      ),
      (
        blocksPerFetchMax * 64 <= messageBytesMax,
        "a grant for the longest fetch must fit a message"
      ),
      (
        quarantinePerSourceFractionMax <= quarantineFractionMax && quarantineFractionMax < 1,
        "one peer must never be able to take the whole of G1"
      ),
      (
        breakerBackoffMin > .zero && breakerBackoffMin <= breakerBackoffMax,
        "a peer that came back must be asked again"
      ),
      (
        metadataBytesMax * 4 * 64 <= groupMessageBytesMax / 2,
        "a source of 64 ranks, written as text, must fit a plan"
      ),
      (
        pullsMax >= 1 && streamsMax >= 1 && streamWindowBytes >= 1 && waitersMax >= 1
          && streamThreads >= 1,
        "a node must be able to fetch and to serve"
      ),
      (
        knownKeysBytes > 0 && knownKeysBytes & (knownKeysBytes - 1) == 0,
        "a key's place in the table is some of its bits"
      ),
      (
        agentPauseMin > .zero && agentPauseMin <= agentPauseMax,
        "an agent that ended must be followed by another, and not at once for ever"
      ),
      (
        peersMax <= HolderTable.holdersMax,
        "the index has a bit for each member of \(HolderTable.holdersMax)"
      ),
      (
        answersPerPrefixMax >= 1 && spreadPause > .zero && spreadPause < spreadWaitMax,
        "a prefix that many want must reach the first, and others must look for it more than once"
      ),
      (
        registryCallMax * 3 < registryLease,
        "a call to a registry must be able to fail before the lease has ended"
      ),
      (
        nameWaitMax > drainMax + reapMax && nameWaitMax < serveStartMax,
        "a node that is leaving must be waited for, and a process that waits for its name not be taken for one that hangs"
      ),
      (feedBeat * 2 < feedSilenceMax, "a feed that lives must not be taken for a silent one"),
      (streamStallMin <= streamStallMax, "a slow member must be given as long as a fast one"),
      (
        paceSpanMin > .zero && paceDoubt >= 1,
        "a member that is as fast as computing must not be given up for its first look"
      ),
      (stepTokensBesideLoads >= 1, "a prefill must go on beside a load"),
      (stepTokensMax >= 1 && promptTokensMax >= 2, "a request must be able to step"),
    ]
  }

  /// Why the first relation that does not hold must; nil when all hold.
  package var contradiction: String? { relations.first { !$0.holds }?.reason }
}

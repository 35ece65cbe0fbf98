package import KVConnector
package import RemoteG2Control
package import RemoteG2Core

/// What a worker is started with.
package struct WorkerConfiguration: Sendable {
  package var name: String
  package var modelPath: String
  package var host: String
  package var port: Int
  package var directory: String
  package var peers: [PeerAddress]
  package var blockCount: Int
  package var slotCount: Int
  package var threads: Int
  package var linger: Duration
  package var nixlPath: String?
  package var isInsecure: Bool
  /// For its store and for what it asks of peers' stores; nil: nothing is encrypted.
  package var certificates: ControlCertificates?
  package var proof: ProofPolicy
  package var policy: LoadFailurePolicy
  package var pullsByCost: Bool
  /// Socket of the node that it loads from and saves to; nil: it has a store of its own.
  package var node: String?
  package var limits: Limits

  package init(
    name: String, modelPath: String, host: String, port: Int, directory: String,
    peers: [PeerAddress], blockCount: Int, slotCount: Int, threads: Int, linger: Duration,
    nixlPath: String?, isInsecure: Bool, certificates: ControlCertificates? = nil,
    proof: ProofPolicy, policy: LoadFailurePolicy,
    pullsByCost: Bool = true, node: String? = nil, limits: Limits
  ) {
    self.name = name
    self.modelPath = modelPath
    self.host = host
    self.port = port
    self.directory = directory
    self.peers = peers
    self.blockCount = blockCount
    self.slotCount = slotCount
    self.threads = threads
    self.linger = linger
    self.nixlPath = nixlPath
    self.isInsecure = isInsecure
    self.certificates = certificates
    self.proof = proof
    self.policy = policy
    self.pullsByCost = pullsByCost
    self.node = node
    self.limits = limits
  }
}

/// What a worker holds right now; all of the first group are zero when nothing is going on.
package struct WorkerAudit: Codable, Equatable, Sendable {
  package var fetches = 0
  package var quarantined = 0
  package var saving = 0
  package var requests = 0
  package var transfersInFlight = 0
  package var blocksHeld = 0
  // Of the process.
  package var descriptors = 0
  package var sharedMemory = 0
  package var residentMB = 0
  // Of its store, when it answers.
  package var storeLeases: Int?
  package var storePinned: Int?
  package var storeSealed: Int?
  package var storeWriting: Int?
  package var storePID: Int?
  package var storeIncarnation: String?
  package var storeStarts = 0
  package var blocksCached = 0
  /// The incarnation, by name, of each peer that a pull could start from as of the last step.
  package var peersReady: [String: String] = [:]
  package var isLocalReady = false
  /// By rank: the leader's as of now, the others' as of their last step.
  package var ranks: [RankCounts] = []
  /// Moments of transfers and fetches that nobody read in time.
  package var eventsDropped = 0
  /// Deadlines that passed without an answer, by peer: its doing, and ours.
  package var peerSilent: [String: UInt64] = [:]
  package var weWereLate: [String: UInt64] = [:]
  /// By reason: how often less was loaded than could have been.
  package var fallbacks: [String: Int] = [:]
  /// What became of blocks that every rank had staged.
  package var saveOutcomes: [String: Int] = [:]

  package init() {}
}

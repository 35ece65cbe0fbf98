internal import KVConnector
package import KVTransfer
package import RemoteG2Core
package import RemoteG2Engine

/// One line on a worker's standard input.
package struct WorkerCommand: Codable, Sendable {
  package enum Name: String, Codable, Sendable {
    case generate, cancel, drop, save, pace, renewals, ttl, proof, fault, trace, audit, stop
  }
  package struct WireHint: Codable, Sendable {
    package var v: Int
    package var store: String
    package var blocks: Int?
    package init(v: Int = 1, store: String, blocks: Int? = nil) {
      self.v = v
      self.store = store
      self.blocks = blocks
    }
  }

  package var cmd: Name
  /// Comes back in the answer.
  package var id: UInt64
  package var prompt: [Int32]?
  package var max: Int?
  package var hint: WireHint?
  package var ignoreEnd: Bool?
  /// For `drop`: which caches.
  package var g1: Bool?
  package var store: Bool?
  /// For `pace`: bytes a second and blocks a transfer; absent means no limit.
  package var bytesPerSecond: Double?
  package var transferBlocks: Int?
  /// For `renewals` and `trace`.
  package var on: Bool?
  /// For `ttl`; absent means the store's default.
  package var seconds: Double?
  /// For `fault`, where the worker was started with --inject: which; absent for none.
  package var fault: String?
  /// For `fault` and `pace`: on which ranks. Absent: on all.
  package var ranks: [Int]?
  /// For `proof`: off, onFailure, always, or unsafelyTrusting.
  package var policy: String?

  package init(_ cmd: Name, id: UInt64) {
    self.cmd = cmd
    self.id = id
  }
}

/// One line on a worker's standard output.
package struct WorkerEvent: Codable, Sendable {
  package enum Name: String, Codable, Sendable {
    case ready, result, done, audit, transfer, fetch, error
  }

  package var event: Name
  package var id: UInt64?
  package var message: String?
  package var result: WireResult?
  package var audit: WorkerAudit?
  package var count: Int?
  package var transfer: WireTransfer?
  package var fetch: WireFetch?

  package init(_ event: Name, id: UInt64? = nil, message: String? = nil) {
    self.event = event
    self.id = id
    self.message = message
  }
}

/// How a request ended, in seconds and on the machine's monotonic clock.
package struct WireResult: Codable, Sendable {
  package var tokens: [Int32]
  package var error: String?
  package var logitsDigest: String?
  package var kvDigest: String?
  package var ttftSeconds: Double?
  package var stepSeconds: [Double]
  package var promptTokens: Int
  package var cachedTokens: Int
  package var reloadedTokens: Int
  package var pulledTokens: Int
  package var keptTokens: Int
  package var computedTokens: Int
  package var reasons: [String]
  package var submittedAt: Int64
  package var settledAt: Int64?
  package var softDeadlineAt: Int64?
  package var firstRecomputeAt: Int64?
  package var preemptions: Int

  package init(_ result: RequestResult) {
    let account = result.account
    tokens = result.generated
    error = result.error?.description
    logitsDigest = result.logitsDigest?.description
    kvDigest = result.kvDigest?.description
    ttftSeconds = account.timeToFirstToken?.inSeconds
    stepSeconds = account.stepDurations.map(\.inSeconds)
    promptTokens = account.promptTokens
    cachedTokens = account.cachedTokens
    reloadedTokens = account.reloadedTokens
    pulledTokens = account.pulledTokens
    keptTokens = account.keptTokens
    computedTokens = account.computedPromptTokens
    reasons = account.reasons.map(\.rawValue)
    submittedAt = account.submittedAt.nanoseconds
    settledAt = account.settledAt?.nanoseconds
    softDeadlineAt = account.softDeadlineAt?.nanoseconds
    firstRecomputeAt = account.firstRecomputeAt?.nanoseconds
    preemptions = account.preemptions
  }
}

/// One moment of one transfer.
package struct WireTransfer: Codable, Sendable {
  package var fetch: UInt64
  package var ordinal: Int
  package var moment: String
  package var at: Int64
  package var bytes: Int

  package init(_ trace: TransferTrace) {
    fetch = trace.transfer.fetch.value
    ordinal = Int(trace.transfer.ordinal)
    moment = trace.moment.rawValue
    at = trace.at.nanoseconds
    bytes = trace.bytes
  }
}

/// One event of a fetch.
package struct WireFetch: Codable, Sendable {
  package var kind: String
  package var request: UInt64
  package var fetch: UInt64?
  package var peer: String?
  package var blocks: Int?
  package var reason: String?
  package var outcome: String?
  package var at: Int64

  package init(_ event: FetchEvent) {
    kind = event.kind.rawValue
    request = event.request.value
    fetch = event.fetch?.value
    peer = event.peer
    blocks = event.blocks
    reason = event.reason?.rawValue
    outcome = event.outcome?.rawValue
    at = event.at.nanoseconds
  }
}

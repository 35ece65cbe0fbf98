internal import KVConnector
package import KVTransfer
package import RemoteG2Core
package import RemoteG2Engine

/// How a request ended, in seconds and on the machine's monotonic clock.
package struct ConsoleResult: Codable, Sendable {
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
  package var dueAt: Int64?
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
    dueAt = account.dueAt?.nanoseconds
    firstRecomputeAt = account.firstRecomputeAt?.nanoseconds
    preemptions = account.preemptions
  }
}

/// One moment of one transfer.
package struct ConsoleTransfer: Codable, Sendable {
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
package struct ConsoleFetch: Codable, Sendable {
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
    peer = event.source.description
    blocks = event.blocks
    reason = event.reason?.rawValue
    outcome = event.outcome
    at = event.at.nanoseconds
  }
}

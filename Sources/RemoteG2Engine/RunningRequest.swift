import ContentDigest
import KVConnector
import RemoteG2Core

/// A request inside the engine.
final class RunningRequest {
  enum Phase: Equatable {
    /// Waits for the connector's answer to its match. It has blocks only if a load of its has ended before.
    case waiting
    /// Has blocks that a connector is filling.
    case loading
    /// May be chosen for every plan, as far as the step's tokens and the pool's blocks reach.
    case running
  }

  let spec: RequestSpec
  /// Prompt, then what was generated.
  var tokens: [Int32]
  var keys: [BlockKey] = []
  var blocks: [BlockIndex] = []
  /// While loading: the end of the blocks that the connector fills.
  var boundEnd = 0
  /// Leading tokens whose KV is in `blocks`.
  var computed = 0
  /// Leading blocks that are sealed, or known to be private.
  var sealedBlocks = 0
  var phase = Phase.waiting
  var account = RequestAccount()
  var logitsDigest = StreamingDigest()
  /// What it found in the cache has been offered to the store: once, or a request that is preempted again
  /// and again would have its blocks held for saving all the time.
  var hasOfferedFound = false
  /// Steps in a row in which it got nothing and one that came later did.
  var overtakenSteps = 0
  /// Tokens of this step's plan.
  var planned = 0
  var kvDigest: Digest128?

  init(spec: RequestSpec, at now: LocalInstant) {
    self.spec = spec
    tokens = spec.prompt
    account.submittedAt = now
    account.promptTokens = spec.prompt.count
  }

  var generated: ArraySlice<Int32> { tokens[spec.prompt.count...] }
  /// Tokens whose KV is still to be computed before the next one can be sampled.
  var remaining: Int { tokens.count - computed }
}

public import KVConnector
public import RemoteG2Core

/// Why a request is not served, or not served to its end.
public enum RequestError: Error, Equatable, Sendable, CustomStringConvertible {
  case emptyPrompt
  case token(Int32, vocabularySize: Int)
  case promptTooLong(tokens: Int, max: Int)
  case generation(tokens: Int)
  /// It could never run here, however long it waited.
  case needsTooManyBlocks(needed: Int, pool: Int)
  case tooManyRequests(max: Int)
  case duplicate(RequestID)
  /// The blocks it needs stayed in quarantine, because a peer neither answers nor dies.
  case starved(needed: Int, available: Int)
  /// The load policy is `fail`.
  case loadFailed(FallbackReason)

  public var description: String {
    switch self {
    case .emptyPrompt: "the prompt is empty"
    case .token(let token, let size): "token \(token) is outside a vocabulary of \(size)"
    case .promptTooLong(let tokens, let most):
      "prompt and generation are \(tokens) tokens; at most \(most) fit"
    case .generation(let tokens): "a generation of \(tokens) tokens is not possible"
    case .needsTooManyBlocks(let needed, let pool):
      "the request needs \(needed) blocks and G1 has \(pool): raise --g1-blocks or shorten it"
    case .tooManyRequests(let most): "\(most) requests are waiting already: try again later"
    case .duplicate(let id): "\(id) is known already"
    case .starved(let needed, let available):
      "the request needs \(needed) blocks, and only \(available) came free: the others may still be "
        + "written by a peer that does not answer; raise --g1-blocks, or restart that peer's store"
    case .loadFailed(let reason): "loading its prefix failed (\(reason)) and the policy is fail"
    }
  }
}

/// What a client asks for.
public struct RequestSpec: Sendable {
  public let id: RequestID
  public let prompt: [Int32]
  public let generateMax: Int
  public let hint: Hint?
  /// Go on past end-of-text tokens, so that a demonstration has its full length.
  public let ignoresEnd: Bool
  /// Digest every step's logits and, at the end, the KV.
  public let wantsDigests: Bool

  public init(
    id: RequestID, prompt: [Int32], generateMax: Int, hint: Hint? = nil, ignoresEnd: Bool = false,
    wantsDigests: Bool = false
  ) {
    self.id = id
    self.prompt = prompt
    self.generateMax = generateMax
    self.hint = hint
    self.ignoresEnd = ignoresEnd
    self.wantsDigests = wantsDigests
  }
}

/// Where a request's tokens came from, and when. Instants are on the engine's clock. A block that is found,
/// reloaded or pulled counts as `tokensPerBlock` tokens, each time again after a preemption.
public struct RequestAccount: Equatable, Sendable {
  public var submittedAt = LocalInstant(nanoseconds: 0)
  public var firstTokenAt: LocalInstant?
  public var endedAt: LocalInstant?
  public var promptTokens = 0
  /// Found in G1.
  public var cachedTokens = 0
  /// Read from the own store's mapping, and kept.
  public var reloadedTokens = 0
  /// Blocks were bound for them and peers were asked for them, whether they came or not.
  public var pulledTokens = 0
  /// Of ``pulledTokens``, those that were valid and kept.
  public var keptTokens = 0
  /// Prompt tokens that this engine computed.
  public var computedPromptTokens = 0
  /// Why less was loaded than could have been, in the order in which it was noted.
  public var reasons: [FallbackReason] = []
  /// When its last load settled.
  public var settledAt: LocalInstant?
  /// The ``LoadResult/dueAt`` of its last load that had one: when a rank found that load stalled, or else its
  /// hard deadline. A later load without one leaves it as it is.
  public var dueAt: LocalInstant?
  /// The start of the first step that computed part of the prompt after a settle.
  public var firstRecomputeAt: LocalInstant?
  public var stepDurations: [Duration] = []
  public var preemptions = 0

  public init() {}

  public var timeToFirstToken: Duration? { firstTokenAt.map { $0 - submittedAt } }
}

/// How a request ended.
public struct RequestResult: Sendable {
  public let id: RequestID
  public let generated: [Int32]
  public let error: RequestError?
  public let account: RequestAccount
  /// Over the bits of every generated token's logits, in order. Nil unless asked for.
  public let logitsDigest: Digest128?
  /// Over the KV of every token that has one, in token order. Nil unless asked for.
  public let kvDigest: Digest128?
}

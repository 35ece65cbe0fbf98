/// One line on a worker's standard input: what it is to do, under a number that comes back in the answer.
package struct WorkerCommand: Sendable {
  package let id: UInt64
  package let action: Action

  package enum Action: Sendable {
    /// Answered by a `result`.
    case generate(Generation)
    /// The request that was submitted under this number; its result follows.
    case cancel
    case drop(Caches)
    /// Offer the prompt's blocks to the own store again. Answered with how many there are.
    case save(prompt: [Int32])
    case pace(Pace)
    /// Whether leases are renewed.
    case renewals(Bool)
    /// How long leases are asked for; nil: as long as the store likes.
    case leaseTTL(seconds: Double?)
    /// off, onFailure, always, or unsafelyTrusting.
    case proof(policy: String)
    case fault(Fault)
    /// Whether every transfer's moments are told.
    case trace(Bool)
    /// Answered by an `audit`.
    case audit
    case stop
  }

  package struct Generation: Codable, Sendable {
    package var prompt: [Int32]
    /// Tokens to generate; absent: 64.
    package var max: Int?
    package var hint: ConsoleHint?
    /// Whether the model's end token does not end it.
    package var ignoreEnd: Bool?

    package init(
      prompt: [Int32], max: Int? = nil, hint: ConsoleHint? = nil, ignoreEnd: Bool? = nil
    ) {
      self.prompt = prompt
      self.max = max
      self.hint = hint
      self.ignoreEnd = ignoreEnd
    }
  }

  package struct ConsoleHint: Codable, Sendable {
    package var v: Int
    package var store: String
    package var blocks: Int?

    package init(v: Int = 1, store: String, blocks: Int? = nil) {
      self.v = v
      self.store = store
      self.blocks = blocks
    }
  }

  /// Which caches are to be emptied.
  package struct Caches: Codable, Sendable {
    /// The engine's own.
    package var g1: Bool?
    /// Its store's.
    package var store: Bool?

    package init(g1: Bool? = nil, store: Bool? = nil) {
      self.g1 = g1
      self.store = store
    }
  }

  /// To what the peers' transfers are held; what is absent is not limited.
  package struct Pace: Codable, Sendable {
    package var bytesPerSecond: Double?
    /// Blocks of one transfer.
    package var transferBlocks: Int?
    /// Absent: of all ranks.
    package var ranks: [Int]?

    package init(bytesPerSecond: Double? = nil, transferBlocks: Int? = nil, ranks: [Int]? = nil) {
      self.bytesPerSecond = bytesPerSecond
      self.transferBlocks = transferBlocks
      self.ranks = ranks
    }
  }

  /// What goes wrong with a transfer of each pull, where the worker was started with --inject.
  package struct Fault: Codable, Sendable {
    /// Absent: nothing any more.
    package var fault: String?
    /// Absent: on all ranks.
    package var ranks: [Int]?

    package init(_ fault: String? = nil, ranks: [Int]? = nil) {
      self.fault = fault
      self.ranks = ranks
    }
  }

  package init(_ action: Action, id: UInt64) {
    self.action = action
    self.id = id
  }
}

extension WorkerCommand.Action {
  /// As it is called in a command's `cmd`.
  package enum Name: String, Codable, Sendable {
    case generate, cancel, drop, save, pace, renewals, ttl, proof, fault, trace, audit, stop
  }

  package var name: Name {
    switch self {
    case .generate: .generate
    case .cancel: .cancel
    case .drop: .drop
    case .save: .save
    case .pace: .pace
    case .renewals: .renewals
    case .leaseTTL: .ttl
    case .proof: .proof
    case .fault: .fault
    case .trace: .trace
    case .audit: .audit
    case .stop: .stop
    }
  }
}

extension WorkerCommand: Codable {
  private enum Key: String, CodingKey { case cmd, id, prompt, on, seconds, policy }

  package init(from decoder: any Decoder) throws {
    let values = try decoder.container(keyedBy: Key.self)
    let name = try values.decode(Action.Name.self, forKey: .cmd)
    id = try values.decode(UInt64.self, forKey: .id)
    action =
      switch name {
      case .generate: .generate(try Generation(from: decoder))
      case .cancel: .cancel
      case .drop: .drop(try Caches(from: decoder))
      case .save: .save(prompt: try values.decode([Int32].self, forKey: .prompt))
      case .pace: .pace(try Pace(from: decoder))
      case .renewals: .renewals(try values.decode(Bool.self, forKey: .on))
      case .ttl: .leaseTTL(seconds: try values.decodeIfPresent(Double.self, forKey: .seconds))
      case .proof: .proof(policy: try values.decode(String.self, forKey: .policy))
      case .fault: .fault(try Fault(from: decoder))
      case .trace: .trace(try values.decode(Bool.self, forKey: .on))
      case .audit: .audit
      case .stop: .stop
      }
  }

  package func encode(to encoder: any Encoder) throws {
    var values = encoder.container(keyedBy: Key.self)
    try values.encode(id, forKey: .id)
    try values.encode(action.name, forKey: .cmd)
    switch action {
    case .generate(let generation): try generation.encode(to: encoder)
    case .drop(let caches): try caches.encode(to: encoder)
    case .save(let prompt): try values.encode(prompt, forKey: .prompt)
    case .pace(let pace): try pace.encode(to: encoder)
    case .fault(let fault): try fault.encode(to: encoder)
    case .renewals(let isOn), .trace(let isOn): try values.encode(isOn, forKey: .on)
    case .leaseTTL(let seconds): try values.encodeIfPresent(seconds, forKey: .seconds)
    case .proof(let policy): try values.encode(policy, forKey: .policy)
    case .cancel, .audit, .stop: break
    }
  }
}

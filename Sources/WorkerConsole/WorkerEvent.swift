package import RemoteG2Runtime

/// One line on a worker's standard output.
package enum WorkerEvent: Sendable {
  /// It takes commands. `absence`: why it has no store.
  case ready(absence: String?)
  /// A command was carried out; `count` where it counts something.
  case done(UInt64, count: Int? = nil)
  /// A command, if it had a number, was not.
  case error(UInt64?, String)
  /// A request has ended. Nil: nobody waits for it any more.
  case result(UInt64?, ConsoleResult)
  case audit(UInt64, WorkerAudit)
  case transfer(ConsoleTransfer)
  case fetch(ConsoleFetch)

  /// Of the command that it answers.
  package var id: UInt64? {
    switch self {
    case .ready, .transfer, .fetch: nil
    case .done(let id, _), .audit(let id, _): id
    case .error(let id, _), .result(let id, _): id
    }
  }

  /// Whether nobody waits for it: it may be lost where its reader is slow.
  package var isMoment: Bool {
    switch self {
    case .transfer, .fetch: true
    case .ready, .done, .error, .result, .audit: false
    }
  }
}

extension WorkerEvent: Codable {
  private enum Name: String, Codable { case ready, result, done, audit, transfer, fetch, error }
  private enum Key: String, CodingKey {
    case event, id, message, result, audit, count, transfer, fetch
  }

  package init(from decoder: any Decoder) throws {
    let values = try decoder.container(keyedBy: Key.self)
    func id() throws -> UInt64 { try values.decode(UInt64.self, forKey: .id) }
    func idIfAny() throws -> UInt64? { try values.decodeIfPresent(UInt64.self, forKey: .id) }
    self =
      switch try values.decode(Name.self, forKey: .event) {
      case .ready:
        .ready(absence: try values.decodeIfPresent(String.self, forKey: .message))
      case .done: .done(try id(), count: try values.decodeIfPresent(Int.self, forKey: .count))
      case .error: .error(try idIfAny(), try values.decode(String.self, forKey: .message))
      case .result: .result(try idIfAny(), try values.decode(ConsoleResult.self, forKey: .result))
      case .audit: .audit(try id(), try values.decode(WorkerAudit.self, forKey: .audit))
      case .transfer: .transfer(try values.decode(ConsoleTransfer.self, forKey: .transfer))
      case .fetch: .fetch(try values.decode(ConsoleFetch.self, forKey: .fetch))
      }
  }

  package func encode(to encoder: any Encoder) throws {
    var values = encoder.container(keyedBy: Key.self)
    try values.encodeIfPresent(id, forKey: .id)
    func put(_ name: Name) throws { try values.encode(name, forKey: .event) }
    switch self {
    case .ready(let absence):
      try put(.ready)
      try values.encodeIfPresent(absence, forKey: .message)
    case .done(_, let count):
      try put(.done)
      try values.encodeIfPresent(count, forKey: .count)
    case .error(_, let message):
      try put(.error)
      try values.encode(message, forKey: .message)
    case .result(_, let result):
      try put(.result)
      try values.encode(result, forKey: .result)
    case .audit(_, let audit):
      try put(.audit)
      try values.encode(audit, forKey: .audit)
    case .transfer(let transfer):
      try put(.transfer)
      try values.encode(transfer, forKey: .transfer)
    case .fetch(let fetch):
      try put(.fetch)
      try values.encode(fetch, forKey: .fetch)
    }
  }
}

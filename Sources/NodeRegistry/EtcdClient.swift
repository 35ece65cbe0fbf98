internal import AsyncHTTPClient
internal import Foundation
internal import NIOCore
internal import NIOHTTP1
internal import OSThreads
internal import RemoteG2Core

/// etcd's calls that are needed, by its JSON gateway (`/v3/…`): keys and values travel in base 64, and numbers as text.
struct EtcdClient: Sendable {
  struct Header: Decodable { let revision: String? }
  struct KeyValue: Decodable {
    let key: Data
    let value: Data?
  }

  private struct Granted: Decodable {
    let ID: String
    let TTL: String
  }
  private struct Renewed: Decodable {
    struct Result: Decodable { let TTL: String? }
    let result: Result
  }
  private struct Range: Decodable {
    let header: Header
    let kvs: [KeyValue]?
  }
  private struct Inner: Decodable {
    struct Response: Decodable { let response_range: Found? }
    struct Found: Decodable { let kvs: [KeyValue]? }
    let succeeded: Bool?
    let responses: [Response]?
  }
  private struct Outer: Decodable {
    struct Response: Decodable { let response_txn: Inner? }
    let succeeded: Bool?
    let responses: [Response]?
  }
  private struct Watched: Decodable {
    struct Event: Decodable {
      let type: String?
      let kv: KeyValue
    }
    struct Result: Decodable {
      let canceled: Bool?
      let events: [Event]?
    }
    let result: Result?
  }

  private let connection: EtcdConnection
  private let limits: Limits
  /// Every entry's key begins so.
  private let prefix: String
  private static let bytesMax = 4 << 20
  /// What the registry gave for the password.
  private let token = Guarded<String?>(nil)

  init(_ connection: EtcdConnection, prefix: String, limits: Limits) {
    self.connection = connection
    self.prefix = prefix
    self.limits = limits
  }

  private func call<Reply: Decodable>(
    _ endpoint: String, _ path: String, _ body: Data, as: Reply.Type
  ) async throws -> Reply {
    let (code, data) = try await exchange(try await request(endpoint, path, body))
    guard code == 200 else {
      // It may have ended, or be another registry's: the next call asks for another.
      token.withLock { $0 = nil }
      throw EtcdFailure(
        description: "\(endpoint)\(path) answers \(code): "
          + String(decoding: data.prefix(200), as: UTF8.self))
    }
    do { return try JSONDecoder().decode(Reply.self, from: data) } catch {
      throw EtcdFailure(description: "\(endpoint)\(path) answers what etcd does not")
    }
  }

  /// The client's own timeout ends with the head of an answer; this is for all of it.
  private func exchange(_ request: HTTPClientRequest) async throws -> (UInt, Data) {
    let (http, most) = (try connection.http(), limits.registryCallMax)
    // The deadline does not wait for the request to be cancelled: a client that is being shut down may never say so.
    let (outcomes, tell) = AsyncStream<Result<(UInt, Data), any Error>>.makeStream()
    let asking = Task {
      do {
        let response = try await http.execute(request, timeout: .nanoseconds(most.nanoseconds))
        let body = try await response.body.collect(upTo: Self.bytesMax)
        tell.yield(.success((response.status.code, Data(body.readableBytesView))))
      } catch { tell.yield(.failure(error)) }
    }
    let timer = Task {
      try await Task.sleep(for: most)
      tell.finish()
    }
    defer {
      asking.cancel()
      timer.cancel()
    }
    for await outcome in outcomes { return try outcome.get() }
    // Nothing came: its time is over, or whoever asks has gone.
    throw EtcdFailure(description: "\(request.url) does not answer in time")
  }

  private static func json(_ object: [String: Any]) throws -> Data {
    try JSONSerialization.data(withJSONObject: object)
  }

  private static func post(_ url: String, _ body: Data) -> HTTPClientRequest {
    var request = HTTPClientRequest(url: url)
    request.method = .POST
    request.headers.add(name: "content-type", value: "application/json")
    request.body = .bytes(ByteBuffer(bytes: body))
    return request
  }

  private func request(_ endpoint: String, _ path: String, _ body: Data) async throws
    -> HTTPClientRequest
  {
    var request = Self.post(endpoint + path, body)
    if let token = try await tokenFor(endpoint) {
      request.headers.add(name: "authorization", value: token)
    }
    return request
  }

  /// Nil for a registry that is asked as nobody.
  private func tokenFor(_ endpoint: String) async throws -> String? {
    guard let user = connection.access.user else { return nil }
    // A file that cannot be read for a moment costs nothing while that is good.
    if let known = token.withLock({ $0 }) { return known }
    guard let password = try connection.access.password() else { return nil }
    struct Answer: Decodable { let token: String }
    let (code, data) = try await exchange(
      Self.post(
        endpoint + "/v3/auth/authenticate", try Self.json(["name": user, "password": password])))
    guard code == 200, let answer = try? JSONDecoder().decode(Answer.self, from: data) else {
      throw EtcdFailure(
        description: "\(endpoint) does not let the user \(user) in (\(code)): "
          + String(decoding: data.prefix(200), as: UTF8.self))
    }
    token.withLock { $0 = answer.token }
    return answer.token
  }

  private static func encoded(_ text: String) -> String { Data(text.utf8).base64EncodedString() }
  private func key(_ name: String) -> String { Self.encoded(prefix + name) }
  /// The first key after all that begin with the prefix.
  private var rangeEnd: String {
    var bytes = Array(prefix.utf8)
    bytes[bytes.count - 1] += 1
    return Data(bytes).base64EncodedString()
  }

  private func name(of key: Data) -> String {
    String(String(decoding: key, as: UTF8.self).dropFirst(prefix.count))
  }

  // MARK: Calls

  func grant(_ endpoint: String, lasts: Duration) async throws -> (Int64, Duration) {
    let reply = try await call(
      endpoint, "/v3/lease/grant", Self.json(["TTL": "\(lasts.components.seconds)"]),
      as: Granted.self)
    guard let id = Int64(reply.ID), let seconds = Int64(reply.TTL), seconds > 0 else {
      throw EtcdFailure(description: "\(endpoint) grants no lease")
    }
    return (id, .seconds(seconds))
  }

  /// - Returns: How long it lasts; nil when it has ended.
  func renew(_ endpoint: String, _ lease: Int64) async throws -> Duration? {
    let reply = try await call(
      endpoint, "/v3/lease/keepalive", Self.json(["ID": "\(lease)"]), as: Renewed.self)
    guard let seconds = reply.result.TTL.flatMap({ Int64($0) }), seconds > 0 else { return nil }
    return .seconds(seconds)
  }

  func revoke(_ endpoint: String, _ lease: Int64) async throws {
    struct Nothing: Decodable {}
    _ = try await call(
      endpoint, "/v3/lease/revoke", Self.json(["ID": "\(lease)"]), as: Nothing.self)
  }

  /// Writes the entry where there is none, or the same one of an earlier lease.
  func enter(_ endpoint: String, _ name: String, _ text: String, _ lease: Int64) async throws
    -> RegistryMachine.Entry
  {
    let key = key(name)
    let put: [String: Any] = [
      "request_put": ["key": key, "value": Self.encoded(text), "lease": "\(lease)"]
    ]
    let unless: [String: Any] = [
      "compare": [["key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"]],
      "success": [put], "failure": [["request_range": ["key": key]]],
    ]
    let reply = try await call(
      endpoint, "/v3/kv/txn",
      Self.json([
        "compare": [
          ["key": key, "target": "VALUE", "result": "EQUAL", "value": Self.encoded(text)]
        ],
        "success": [put], "failure": [["request_txn": unless]],
      ]), as: Outer.self)
    if reply.succeeded == true { return .there }
    guard let inner = reply.responses?.first?.response_txn else {
      throw EtcdFailure(description: "\(endpoint) answers a transaction by halves")
    }
    if inner.succeeded == true { return .there }
    let other = inner.responses?.first?.response_range?.kvs?.first?.value ?? Data()
    return .taken(by: String(decoding: other.prefix(100), as: UTF8.self))
  }

  func list(_ endpoint: String) async throws -> ([RegistryMachine.Change], Int64) {
    let reply = try await call(
      endpoint, "/v3/kv/range", Self.json(["key": Self.encoded(prefix), "range_end": rangeEnd]),
      as: Range.self)
    guard let revision = reply.header.revision.flatMap({ Int64($0) }) else {
      throw EtcdFailure(description: "\(endpoint) tells no revision")
    }
    return (
      (reply.kvs ?? []).map {
        .init(name: name(of: $0.key), text: String(decoding: $0.value ?? Data(), as: UTF8.self))
      }, revision
    )
  }

  /// Tells changes as they come, until the registry ends it.
  func watch(
    _ endpoint: String, after revision: Int64, _ tell: ([RegistryMachine.Change]) -> Void
  ) async throws {
    let question = try await request(
      endpoint, "/v3/watch",
      Self.json([
        "create_request": [
          "key": Self.encoded(prefix), "range_end": rangeEnd, "start_revision": "\(revision + 1)",
        ]
      ]))
    let response = try await connection.http().execute(
      question, timeout: .nanoseconds(limits.registryWatchMax.nanoseconds * 2))
    guard response.status == .ok else {
      token.withLock { $0 = nil }
      throw EtcdFailure(description: "\(endpoint)/v3/watch answers \(response.status.code)")
    }
    var rest = Data()
    for try await piece in response.body {
      rest.append(contentsOf: piece.readableBytesView)
      guard rest.count <= Self.bytesMax else {
        throw EtcdFailure(description: "\(endpoint)/v3/watch says too much at once")
      }
      while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
        let line = rest[rest.startIndex..<end]
        rest.removeSubrange(rest.startIndex...end)
        let watched = try JSONDecoder().decode(Watched.self, from: Data(line))
        guard let result = watched.result, result.canceled != true else {
          throw EtcdFailure(description: "\(endpoint) ends the watch")
        }
        let changes = (result.events ?? []).map { event in
          RegistryMachine.Change(
            name: name(of: event.kv.key),
            text: event.type == "DELETE"
              ? nil : String(decoding: event.kv.value ?? Data(), as: UTF8.self))
        }
        if !changes.isEmpty { tell(changes) }
      }
    }
    throw EtcdFailure(description: "\(endpoint) has closed the watch")
  }
}

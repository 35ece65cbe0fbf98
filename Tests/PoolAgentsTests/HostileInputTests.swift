import Foundation
import GRPCCore
import GRPCNIOTransportHTTP2Posix
import RemoteG2Control
import RemoteG2Core
import Testing

/// Bytes as they are.
private struct RawCoder: MessageSerializer, MessageDeserializer {
  func serialize<Bytes: GRPCContiguousBytes>(_ message: [UInt8]) throws -> Bytes { Bytes(message) }
  func deserialize<Bytes: GRPCContiguousBytes>(_ bytes: Bytes) throws -> [UInt8] {
    bytes.withUnsafeBytes { Array($0) }
  }
}

/// Whatever bytes come, a store answers or refuses, in bounded time and memory, and serves on.
@Suite struct `Hostile input` {
  /// A little protobuf: random fields of random wire types, some of them cut off or lying about their
  /// length.
  static func message(_ generator: inout some RandomNumberGenerator, depth: Int = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    func varint(_ value: UInt64) {
      var value = value
      while value > 127 {
        bytes.append(UInt8(value & 127) | 128)
        value >>= 7
      }
      bytes.append(UInt8(value))
    }
    for _ in 0..<Int.random(in: 0...6, using: &generator) {
      let field = UInt64.random(in: 1...9, using: &generator)
      let type = UInt64.random(in: 0...7, using: &generator)
      varint(field << 3 | type)
      switch type {
      case 0: varint(UInt64.random(in: 0...UInt64.max, using: &generator))
      case 1: for _ in 0..<8 { bytes.append(UInt8.random(in: 0...255, using: &generator)) }
      case 5: for _ in 0..<4 { bytes.append(UInt8.random(in: 0...255, using: &generator)) }
      default:
        let inner = depth < 3 ? message(&generator, depth: depth + 1) : []
        let lies = Int.random(in: 0..<8, using: &generator) == 0
        varint(lies ? UInt64.random(in: 0...UInt64.max, using: &generator) : UInt64(inner.count))
        bytes += inner
      }
    }
    if Int.random(in: 0..<4, using: &generator) == 0, !bytes.isEmpty {
      bytes.removeLast(Int.random(in: 1...bytes.count, using: &generator))
    }
    return bytes
  }

  @Test func `no protobuf of any kind stops a store, and none takes its slots for good`()
    async throws
  {
    try await `Store over the wire`.serve { served, _ in
      let peer = served.peer
      let (host, port) = (peer.address.host, peer.address.port)
      let transport = try HTTP2ClientTransport.Posix(
        target: .ipv4(address: host, port: port), transportSecurity: .plaintext)
      let methods = [
        ("Store", "Handshake"), ("Store", "Resolve"), ("Store", "Renew"), ("Store", "Confirm"),
        ("Store", "Release"), ("Store", "Stats"),
      ]
      var generator = TestChance(seed: 5)
      let corpus = (0..<1200).map { _ in Self.message(&generator) }
      let client = GRPCClient(transport: transport)
      let runner = Task { try await client.runConnections() }
      var (answered, refused) = (0, 0)
      for (index, bytes) in corpus.enumerated() {
        let (name, method) = methods[index % methods.count]
        var options = CallOptions.defaults
        options.timeout = .seconds(5)
        do {
          _ = try await client.unary(
            request: ClientRequest(message: bytes),
            descriptor: MethodDescriptor(
              fullyQualifiedService: "remote_g2.v1.\(name)", method: method),
            serializer: RawCoder(), deserializer: RawCoder(), options: options
          ) { response in try response.message }
          answered += 1
        } catch { refused += 1 }
      }
      client.beginGracefulShutdown()
      runner.cancel()
      #expect(answered > 100 && refused > 100, "\(answered) answered, \(refused) refused")
      // It serves on, and nothing was pinned by nonsense.
      let stats = try await peer.stats(timeout: .seconds(5)).1
      #expect(stats.leases == 0 && stats.pinned == 0)
      #expect(stats.free + stats.writing + stats.sealed == stats.slots)
    }
  }

  @Test func `bytes that are no HTTP stop nobody, and a server of them is no store`() async throws {
    try await `Store over the wire`.serve { served, owner in
      let peer = served.peer
      let port = peer.address.port
      var generator = TestChance(seed: 6)
      for round in 0..<60 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        address.sin_port = UInt16(port).bigEndian
        let connected = withUnsafePointer(to: &address) {
          $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
          }
        }
        guard connected == 0 else { continue }
        var bytes: [UInt8] = round % 2 == 0 ? Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) : []
        for _ in 0..<200 { bytes.append(UInt8.random(in: 0...255, using: &generator)) }
        _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
      }
      let introduced = try await peer.handshake(
        as: `Store over the wire`.fingerprint, name: "T",
        incarnation: Incarnation(high: 1, low: 1), timeout: .seconds(5))
      #expect(introduced.incarnation == owner)
    }
  }
}

/// A seeded generator.
struct TestChance: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return (state ^ (state >> 29)) &* 0xBF58_476D_1CE4_E5B9
  }
}

/// A position in an engine's own paged pool (G1).
public struct BlockIndex: Hashable, Comparable, Codable, Sendable, CustomStringConvertible {
  public let value: Int32
  public init(_ value: Int) { self.value = Int32(value) }
  public var index: Int { Int(value) }
  public static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  public var description: String { "block \(value)" }
}

/// A position in a store's pool (G2). The same on every rank.
public struct SlotIndex: Hashable, Comparable, Codable, Sendable, CustomStringConvertible {
  public let value: Int32
  public init(_ value: Int) { self.value = Int32(value) }
  public var index: Int { Int(value) }
  public static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  public var description: String { "slot \(value)" }
}

/// A request, for the life of its engine.
public struct RequestID: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let value: UInt64
  public init(_ value: UInt64) { self.value = value }
  public static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  public var description: String { "request \(value)" }
}

/// One attempt to fetch a prefix. Never reused by an engine.
public struct FetchID: Hashable, Comparable, Codable, Sendable, CustomStringConvertible {
  public let value: UInt64
  public init(_ value: UInt64) { self.value = value }
  public static func < (a: Self, b: Self) -> Bool { a.value < b.value }
  public var description: String { "fetch \(value)" }
}

/// One posted read: a run of a fetch's blocks on one rank. Never reused by an engine.
public struct TransferID: Hashable, Comparable, Sendable, CustomStringConvertible {
  public let fetch: FetchID
  public let ordinal: Int32
  public init(fetch: FetchID, ordinal: Int) {
    self.fetch = fetch
    self.ordinal = Int32(ordinal)
  }
  public static func < (a: Self, b: Self) -> Bool {
    (a.fetch, a.ordinal) < (b.fetch, b.ordinal)
  }
  public var description: String { "transfer \(fetch.value).\(ordinal)" }
}

/// A random 128-bit name drawn when a process starts. Names are never reused.
public struct Incarnation: Hashable, Codable, Sendable, CustomStringConvertible {
  public let high: UInt64
  public let low: UInt64
  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }
  /// Draws a name.
  public init(using generator: inout some RandomNumberGenerator) {
    self.init(high: generator.next(), low: generator.next())
  }
  public var description: String { hexText(high) + hexText(low) }
}

/// A member of the fleet, by the name that it was configured with.
public struct PeerName: Hashable, Comparable, Codable, Sendable, CustomStringConvertible,
  ExpressibleByStringLiteral
{
  public let text: String
  public init(_ text: String) { self.text = text }
  public init(stringLiteral text: String) { self.text = text }
  public static func < (a: Self, b: Self) -> Bool { a.text < b.text }
  public var description: String { text }
}

/// Whose blocks are read, whichever incarnation it is.
public enum SourceName: Hashable, Sendable, CustomStringConvertible {
  case ownStore
  case peer(PeerName)

  public var description: String {
    switch self {
    case .ownStore: "local store"
    case .peer(let name): name.text
    }
  }
}

/// A lease. Its holder names it before it asks, so that it can be given back though its grant was never
/// seen; and neither a reused number nor a restarted store can be mistaken for another.
public struct LeaseID: Hashable, Sendable, CustomStringConvertible {
  /// Used once by its holder.
  public let serial: UInt64
  /// The store.
  public let owner: Incarnation
  /// The engine.
  public let holder: Incarnation
  public init(serial: UInt64, owner: Incarnation, holder: Incarnation) {
    self.serial = serial
    self.owner = owner
    self.holder = holder
  }
  public var description: String { "lease \(serial)" }
}

/// Sixteen lower-case hexadecimal digits.
public func hexText(_ value: UInt64) -> String {
  let digits = String(value, radix: 16)
  return String(repeating: "0", count: 16 - digits.count) + digits
}

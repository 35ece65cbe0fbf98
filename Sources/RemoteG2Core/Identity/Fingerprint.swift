/// What two peers compare before the first transfer. A mismatch is a named refusal, remembered.
public struct Fingerprint: Equatable, Hashable, Sendable {
  public static let protocolVersion: UInt32 = 2

  public var protocolVersion: UInt32
  public var modelDigest: String
  public var weightEpoch: UInt64
  public var layout: String
  public var hashScheme: String
  public var rankCount: UInt32
  /// Digest of the KV bits of a fixed probe: only engines that would compute the same bits share.
  public var numerics: String

  public init(
    protocolVersion: UInt32 = Self.protocolVersion, modelDigest: String, weightEpoch: UInt64 = 0,
    layout: String, hashScheme: String, rankCount: UInt32, numerics: String
  ) {
    self.protocolVersion = protocolVersion
    self.modelDigest = modelDigest
    self.weightEpoch = weightEpoch
    self.layout = layout
    self.hashScheme = hashScheme
    self.rankCount = rankCount
    self.numerics = numerics
  }

  /// The first field that differs, with both values, or nil when the two may share.
  public func mismatch(with other: Fingerprint) -> Mismatch? {
    let pairs: [(String, String, String)] = [
      ("protocol version", "\(protocolVersion)", "\(other.protocolVersion)"),
      ("layout", layout, other.layout),
      ("ranks", "\(rankCount)", "\(other.rankCount)"),
      ("hash scheme", hashScheme, other.hashScheme),
      ("model", modelDigest, other.modelDigest),
      ("weight epoch", "\(weightEpoch)", "\(other.weightEpoch)"),
      ("numerics", numerics, other.numerics),
    ]
    for (field, ours, theirs) in pairs where ours != theirs {
      return Mismatch(field: field, ours: ours, theirs: theirs)
    }
    return nil
  }

  public struct Mismatch: Error, Equatable, Sendable, CustomStringConvertible {
    public let field: String
    public let ours: String
    public let theirs: String
    public init(field: String, ours: String, theirs: String) {
      self.field = field
      self.ours = ours
      self.theirs = theirs
    }
    public var description: String { "\(field) differs: ours \(ours), theirs \(theirs)" }
  }
}

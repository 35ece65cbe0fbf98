/// What a ``SlotTable`` begins with: of which files it is the table, and what they hold.
package struct TableHeader: Equatable, Sendable {
  private static let magic: UInt64 = 0x3267_656C_6261_5431
  /// Of the table and of the pools that belong to it. Whoever finds another one leaves both alone.
  package static let layoutVersion: UInt64 = 1
  package static let wordCount = 2560
  private static let fieldCount = 10

  /// Drawn when the files were made, and written into each.
  package let files: Incarnation
  package let terms: PoolTerms
  package let slotCount: Int

  package init(files: Incarnation, terms: PoolTerms, slotCount: Int) {
    self.files = files
    self.terms = terms
    self.slotCount = slotCount
  }

  /// - Returns: False when its fingerprint has no room.
  package func write(into words: some TableWords) -> Bool {
    var out = ByteWriter()
    out.fingerprint(terms.fingerprint)
    let bytes = out.bytes
    guard bytes.count <= (Self.wordCount - Self.fieldCount) * 8 else { return false }
    var all: [UInt64] = [
      Self.magic, Self.layoutVersion, files.high, files.low, UInt64(slotCount),
      UInt64(terms.blockBytes), UInt64(terms.rankCount), UInt64(bytes.count), 0, 0,
    ]
    for first in stride(from: 0, to: bytes.count, by: 8) {
      var word: UInt64 = 0
      for (place, byte) in bytes[first..<min(first + 8, bytes.count)].enumerated() {
        word |= UInt64(byte) << (8 * UInt64(place))
      }
      all.append(word)
    }
    all[8] = Self.checksum(all)
    for (place, word) in all.enumerated() { words.store(place, word) }
    return true
  }

  /// - Parameter wordCount: Of the whole table.
  package static func read(_ words: some TableWords, wordCount: Int) -> Result<Self, Unusable> {
    guard wordCount >= Self.wordCount else { return .failure(.notATable) }
    let fields = (0..<fieldCount).map { words.load($0) }
    guard fields[0] == magic else { return .failure(.notATable) }
    guard fields[1] == layoutVersion else { return .failure(.version(fields[1])) }
    let byteCount = Int(clamping: fields[7])
    guard byteCount <= (Self.wordCount - fieldCount) * 8 else { return .failure(.torn) }
    let text = (0..<(byteCount + 7) / 8).map { words.load(fieldCount + $0) }
    var all = fields + text
    all[8] = 0
    guard checksum(all) == fields[8] else { return .failure(.torn) }
    let bytes = (0..<byteCount).map {
      UInt8(truncatingIfNeeded: text[$0 / 8] >> (8 * UInt64($0 % 8)))
    }
    let fingerprint = bytes.withUnsafeBytes { bytes -> Fingerprint? in
      var input = ByteReader(bytes)
      return try? input.fingerprint()
    }
    guard let fingerprint, fields[6] == UInt64(fingerprint.rankCount),
      (1...64).contains(fingerprint.rankCount),
      (1..<1 << 24).contains(fields[4]), (1..<1 << 40).contains(fields[5])
    else { return .failure(.torn) }
    let header = Self(
      files: Incarnation(high: fields[2], low: fields[3]),
      terms: PoolTerms(fingerprint: fingerprint, blockBytes: Int(fields[5])),
      slotCount: Int(fields[4]))
    let rankCount = header.terms.rankCount
    guard
      wordCount == SlotTable<NoWords>.wordCount(slotCount: header.slotCount, rankCount: rankCount)
    else { return .failure(.torn) }
    return .success(header)
  }

  private static func checksum(_ words: [UInt64]) -> UInt64 {
    var sum = WordChecksum()
    for word in words { sum.add(word) }
    return sum.value
  }

  /// Why nothing can be adopted.
  package enum Unusable: Error, Equatable, Sendable, CustomStringConvertible {
    case notATable
    case version(UInt64)
    case torn
    case otherFiles
    case missingFiles
    case tooLarge

    package var description: String {
      switch self {
      case .notATable: "it is no table of slots"
      case .version(let version):
        "it has layout version \(version), and this is \(TableHeader.layoutVersion)"
      case .torn: "its header makes no sense"
      case .otherFiles: "the table and the pools are not of one making"
      case .missingFiles: "some of its files are missing"
      case .tooLarge: "it does not fit this node's memory"
      }
    }
  }

  /// Of a table of which only the size matters.
  private struct NoWords: TableWords {
    func load(_ index: Int) -> UInt64 { 0 }
    func store(_ index: Int, _ value: UInt64) {}
    func publish(_ index: Int, _ value: UInt64) {}
    func fence() {}
  }
}

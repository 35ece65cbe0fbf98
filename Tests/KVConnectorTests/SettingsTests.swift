import KVConnector
import RemoteG2Core
import Testing

@Suite struct `What a connector is told by people` {
  @Test
  func `a hint may name one block or as many as a fetch may have, in a name as long as may be`()
    throws
  {
    let limits = Limits {
      $0.hintBytesMax = 8
      $0.blocksPerFetchMax = 100
    }
    func hint(_ version: Int = 1, _ store: String = "P", _ blocks: Int?) throws(HintError) -> Hint {
      try Hint(version: version, store: store, blocksMax: blocks, limits: limits)
    }
    #expect(try hint(1, "P", 1).blocksMax == 1 && hint(1, "P", 100).blocksMax == 100)
    #expect(try hint(1, "12345678", nil).store == "12345678")
    #expect(throws: HintError.blocks(0, max: 100)) { try hint(1, "P", 0) }
    #expect(throws: HintError.blocks(101, max: 100)) { try hint(1, "P", 101) }
    #expect(throws: HintError.version(0)) { try hint(0, "P", nil) }
    #expect(throws: HintError.version(2)) { try hint(2, "P", nil) }
    #expect(throws: HintError.store(bytes: 0)) { try hint(1, "", nil) }
    #expect(throws: HintError.store(bytes: 9)) { try hint(1, "123456789", nil) }
  }

  static func settings(
    ranks: Int = 1, bytes: Int = 1, tokens: Int = 1, blocks: Int = 1,
    _ change: (inout Limits.Values) -> Void = { _ in }
  ) throws(ConnectorSettings.Invalid) -> ConnectorSettings {
    try ConnectorSettings(
      rankCount: ranks, blockBytes: bytes, tokensPerBlock: tokens, targetBlockCount: blocks,
      limits: Limits(change))
  }

  @Test func `the smallest and the largest engine is possible, and nothing beyond`() throws {
    _ = try Self.settings()
    _ = try Self.settings(ranks: 64)
    #expect(throws: ConnectorSettings.Invalid.ranks(0)) { try Self.settings(ranks: 0) }
    #expect(throws: ConnectorSettings.Invalid.ranks(65)) { try Self.settings(ranks: 65) }
    #expect(throws: ConnectorSettings.Invalid.blockBytes(0)) { try Self.settings(bytes: 0) }
    #expect(throws: ConnectorSettings.Invalid.blockBytes(1)) { try Self.settings(tokens: 0) }
    #expect(throws: ConnectorSettings.Invalid.targetBlocks(0)) { try Self.settings(blocks: 0) }
  }

  @Test func `a transfer carries as many blocks as its bytes allow, and one at the least`() throws {
    func blocks(bytes: Int) throws -> Int {
      try Self.settings(bytes: bytes) {
        $0.transferBlocksMax = 16
        $0.transferBytesMax = 1000
      }.transferBlocksMax
    }
    #expect(try blocks(bytes: 10) == 16)
    #expect(try blocks(bytes: 100) == 10)
    #expect(try blocks(bytes: 101) == 9)
    #expect(try blocks(bytes: 5000) == 1)
  }
}

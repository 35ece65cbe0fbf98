import Foundation
import Testing
import remote_g2

@Suite struct `The doctor on an engine's configuration` {
  static let transfer =
    #"{"kv_connector":"RemoteG2Connector","kv_connector_module_path":"remote_g2.vllm","kv_role":"kv_both","kv_load_failure_policy":"recompute"}"#

  static func cures(_ text: String) throws -> [String] {
    try EngineConfiguration(text).problems.map(\.cure)
  }

  @Test func `finds nothing in what README tells to use`() throws {
    #expect(try Self.cures(Self.transfer).isEmpty)
    let whole =
      #"{"--prefix-caching-hash-algo": "sha256_cbor", "dtype": "float32", "kv_transfer_config": \#(Self.transfer)}"#
    #expect(try Self.cures(whole).isEmpty)
  }

  @Test(arguments: [
    (#""kv_role":"kv_both""#, #""kv_role":"kv_producer""#, #""kv_role":"kv_both""#),
    (
      #","kv_load_failure_policy":"recompute""#, "", #""kv_load_failure_policy":"recompute""#
    ),
    (#""remote_g2.vllm""#, #""other""#, #""kv_connector_module_path":"remote_g2.vllm""#),
    (#""RemoteG2Connector""#, #""NixlConnector""#, "--kv-transfer-config"),
  ])
  func `names the flag that cures what is wrong`(old: String, new: String, cure: String) throws {
    let cures = try Self.cures(Self.transfer.replacingOccurrences(of: old, with: new))
    #expect(cures.count == 1)
    #expect(cures.first?.hasPrefix(cure) == true, "\(cures)")
  }

  @Test func `sees the other options beside a nested transfer configuration`() throws {
    let path = FileManager.default.temporaryDirectory.path + "/rg2-\(UUID().uuidString).yaml"
    try Data(
      """
      dtype: float32
      kv-transfer-config:
        kv_connector: RemoteG2Connector
        kv_connector_module_path: remote_g2.vllm
        kv_role: kv_both
        kv_load_failure_policy: recompute
      prefix-caching-hash-algo: sha256
      """.utf8
    ).write(to: URL(fileURLWithPath: path))
    defer { try? FileManager.default.removeItem(atPath: path) }
    #expect(try Self.cures(path) == ["--prefix-caching-hash-algo sha256_cbor"])
  }

  @Test func `reads lines as well, and says which options keep a server from sharing`() throws {
    let text = """
      # a file for vLLM's --config
      {
      """
    #expect(throws: EngineConfiguration.Unreadable.self) { try EngineConfiguration(text + "}") }
    let path = FileManager.default.temporaryDirectory.path + "/rg2-\(UUID().uuidString).yaml"
    try Data(
      """
      # a file for vLLM's --config
      pipeline-parallel-size: 2
      prefix-caching-hash-algo: sha256
      enable-lora: true
      kv-transfer-config: '\(Self.transfer)'
      """.utf8
    ).write(to: URL(fileURLWithPath: path))
    defer { try? FileManager.default.removeItem(atPath: path) }
    let cures = try Self.cures(path)
    #expect(cures.contains("--pipeline-parallel-size 1"))
    #expect(cures.contains("--prefix-caching-hash-algo sha256_cbor"))
    #expect(cures.contains { $0.contains("without an adapter") })
    #expect(cures.contains { $0.hasPrefix("--dtype") })
    #expect(cures.count == 4)
  }
}

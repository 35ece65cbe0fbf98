import Foundation

/// What in a vLLM configuration would keep its server from sharing, and the flag that cures it.
package struct EngineConfiguration {
  package struct Problem: Equatable {
    package let what: String
    package let cure: String
  }

  package enum Unreadable: Error, CustomStringConvertible {
    case file(String)
    case text

    package var description: String {
      switch self {
      case .file(let path): "\(path) cannot be read"
      case .text:
        "the engine's configuration is neither a JSON object nor lines of `name: value` (as in vLLM's --config)"
      }
    }
  }

  private let values: [String: Any]

  /// - Parameter text: A file's path, or the configuration itself: a JSON object of vLLM's options by their names,
  ///   or of --kv-transfer-config alone; or lines of `name: value`.
  package init(_ text: String) throws(Unreadable) {
    var content = text
    if !text.trimmingCharacters(in: .whitespacesAndNewlines).hasPrefix("{") {
      guard let data = FileManager.default.contents(atPath: text) else { throw .file(text) }
      content = String(decoding: data, as: UTF8.self)
    }
    guard let found = Self.object(content) ?? Self.lines(content) else { throw .text }
    // The transfer's configuration alone.
    values =
      found["kv_connector"] != nil || found["kv_role"] != nil
      ? ["kv_transfer_config": found] : found
  }

  private static func object(_ text: String) -> [String: Any]? {
    guard let found = try? JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any]
    else { return nil }
    return Dictionary(found.map { (name($0.key), $0.value) }) { first, _ in first }
  }

  private static func lines(_ text: String) -> [String: Any]? {
    var found: [String: Any] = [:]
    /// The name whose object the indented lines after it are.
    var parent: String?
    for whole in text.split(separator: "\n") {
      let line = whole.trimmingCharacters(in: .whitespaces)
      if line.isEmpty || line.hasPrefix("#") { continue }
      guard let colon = line.firstIndex(of: ":") else { return nil }
      let isNested = whole.first == " " || whole.first == "\t"
      if isNested {
        guard let parent else { return nil }
        var object = found[parent] as? [String: Any] ?? [:]
        object[name(String(line[..<colon]))] = line[line.index(after: colon)...]
          .trimmingCharacters(in: CharacterSet(charactersIn: " '\""))
        found[parent] = object
        continue
      }
      parent = line.hasSuffix(":") ? name(String(line[..<colon])) : nil
      let value = line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces)
      let unquoted = value.trimmingCharacters(in: CharacterSet(charactersIn: "'\""))
      found[name(String(line[..<colon]))] =
        value.contains("{") ? (object(unquoted) ?? unquoted) : unquoted
    }
    return found.isEmpty ? nil : found
  }

  private static func name(_ text: String) -> String {
    String(text.drop { $0 == "-" }).replacingOccurrences(of: "-", with: "_")
  }

  private func text(_ name: String, in object: [String: Any]? = nil) -> String? {
    (object ?? values)[name].map { "\($0)" }
  }

  private func number(_ name: String) -> Int { text(name).flatMap { Int($0) } ?? 1 }

  package static let transfer = """
    --kv-transfer-config '{"kv_connector":"RemoteG2Connector","kv_connector_module_path":"remote_g2.vllm",\
    "kv_role":"kv_both","kv_load_failure_policy":"recompute"}'
    """

  package var problems: [Problem] {
    var found: [Problem] = []
    func note(_ what: String, _ cure: String) { found.append(Problem(what: what, cure: cure)) }
    if let transfer = transferConfiguration {
      check(transfer, note)
    } else {
      note("there is no KV connector", Self.transfer)
    }
    if !isTransferAlone {
      let algorithm = text("prefix_caching_hash_algo")
      if algorithm != "sha256_cbor" {
        note(
          "block hashes by \(algorithm ?? "the default algorithm") are shared only with servers that hash alike, and "
            + "only sha256_cbor is the same in every process and version",
          "--prefix-caching-hash-algo sha256_cbor")
      }
      for (name, flag) in [
        ("pipeline_parallel_size", "--pipeline-parallel-size 1"),
        ("decode_context_parallel_size", "--decode-context-parallel-size 1"),
      ] where number(name) != 1 {
        note("\(name) is \(number(name)): the connector refuses to start", flag)
      }
      if ["true", "1"].contains(text("enable_lora")?.lowercased()) {
        note(
          "requests with a LoRA adapter share nothing: an adapter is known by its name, not by its content",
          "none needed for requests without an adapter")
      }
      if text("dtype") == nil || text("dtype") == "auto" {
        note(
          "the type is chosen by each server: servers that choose differently share nothing",
          "--dtype bfloat16 (the same on all servers)")
      }
    }
    return found
  }

  private var isTransferAlone: Bool { values.count == 1 && values["kv_transfer_config"] != nil }

  private var transferConfiguration: [String: Any]? {
    switch values["kv_transfer_config"] {
    case let object as [String: Any]: object
    case let text as String: Self.object(text)
    default: nil
    }
  }

  private func check(_ transfer: [String: Any], _ note: (String, String) -> Void) {
    let connector = text("kv_connector", in: transfer)
    if connector != "RemoteG2Connector" {
      note("the KV connector is \(connector ?? "not named")", Self.transfer)
    }
    if text("kv_connector_module_path", in: transfer) != "remote_g2.vllm" {
      note(
        "kv_connector_module_path is not remote_g2.vllm: vLLM does not find the connector",
        #""kv_connector_module_path":"remote_g2.vllm", with PYTHONPATH set to remote-g2's folder Python"#
      )
    }
    if text("kv_role", in: transfer) != "kv_both" {
      note(
        "kv_role is \(text("kv_role", in: transfer) ?? "missing"): the connector refuses to start",
        #""kv_role":"kv_both""#)
    }
    if text("kv_load_failure_policy", in: transfer) != "recompute" {
      note(
        "kv_load_failure_policy is \(text("kv_load_failure_policy", in: transfer) ?? "missing, which means fail"): a "
          + "failed load would fail its request",
        #""kv_load_failure_policy":"recompute""#)
    }
  }
}

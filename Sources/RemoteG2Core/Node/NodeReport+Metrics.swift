/// A node's report in Prometheus's text format.
extension NodeReport {
  package var metrics: String {
    var text = MetricsText()
    let pools = pools.map { (labels: [("pool", $0.id)], pool: $0) }
    text.family("remote_g2_blocks", .gauge, "Blocks of a pool, by what they are.")
    for (labels, pool) in pools {
      for (state, count) in [
        ("free", pool.free), ("writing", pool.writing), ("sealed", pool.sealed),
      ] { text.value(labels + [("state", state)], Double(count)) }
    }
    text.family("remote_g2_blocks_pinned", .gauge, "Sealed blocks that somebody reads.")
    for (labels, pool) in pools { text.value(labels, Double(pool.pinned)) }
    text.family("remote_g2_blocks_staged", .gauge, "Blocks that engines have staged.")
    for (labels, pool) in pools { text.value(labels, Double(pool.staged)) }
    text.family("remote_g2_leases", .gauge, "Prefixes that engines hold.")
    for (labels, pool) in pools { text.value(labels, Double(pool.leases)) }
    text.family("remote_g2_engines", .gauge, "Engines that are attached.")
    for (labels, pool) in pools { text.value(labels, Double(pool.engines)) }
    text.family("remote_g2_evictions_total", .counter, "Blocks that made room for others.")
    for (labels, pool) in pools { text.value(labels, Double(pool.evicted)) }
    text.family("remote_g2_saves_total", .counter, "What became of blocks that engines saved.")
    for (labels, pool) in pools {
      for (outcome, count) in pool.saves.sorted(by: { $0.key < $1.key }) {
        text.value(labels + [("outcome", outcome)], Double(count))
      }
    }
    text.family("remote_g2_local_faults_total", .counter, "Messages that no engine sends.")
    for (labels, pool) in pools { text.value(labels, Double(pool.faults)) }
    for (name, help, count) in [
      ("questions_waiting", "Engines' questions that are not answered yet.", waiting),
      ("pulls", "Answers that members are sending.", pulling),
      ("streams", "Answers that are being sent to members.", serving),
      ("stream_pins", "Blocks that those pin.", servingPins),
    ] {
      text.family("remote_g2_\(name)", .gauge, help)
      text.value([], Double(count))
    }
    for (name, help, count) in [
      ("blocks_answered_total", "Blocks that engines were given.", blocksAnswered),
      ("blocks_pulled_total", "Blocks that came from members.", blocksPulled),
      ("bytes_pulled_total", "Bytes that came from members.", bytesPulled),
      ("bytes_served_total", "Bytes that were sent to members.", bytesServed),
      (
        "agents_lost_total", "Processes that peers read a pool from, and that ended.",
        UInt64(agentsLost)
      ),
    ] {
      text.family("remote_g2_\(name)", .counter, help)
      text.value([], Double(count))
    }
    text.family("remote_g2_shortfalls_total", .counter, "Why engines got less than they wanted.")
    for (reason, count) in shortfalls.sorted(by: { $0.key < $1.key }) {
      text.value([("reason", reason)], Double(count))
    }
    text.family(
      "remote_g2_handshakes_refused_total", .counter,
      "Connections on which one end did not believe the other's certificate.")
    for (reason, count) in handshakeRefusals.sorted(by: { $0.key < $1.key }) {
      text.value([("reason", reason)], Double(count))
    }
    text.family(
      "remote_g2_certificate_end_seconds", .gauge,
      "When this node's certificate is valid no more, since 1970.")
    if let certificateEnd { text.value([], Double(certificateEnd)) }
    if let adoption {
      text.family("remote_g2_lives", .gauge, "Processes that have served for the node's keeper.")
      text.value([], Double(adoption.life))
      text.family(
        "remote_g2_adopted_blocks", .gauge, "Blocks of the process before, by what became of them.")
      for (state, count) in [
        ("found", adoption.adopted), ("waiting", adoption.waiting), ("refused", adoption.refused),
      ] { text.value([("state", state)], Double(count)) }
    }
    text.family("remote_g2_member_up", .gauge, "Whether a member's feed is open.")
    for member in members {
      text.value([("member", member.name)], member.standing == "connected" ? 1 : 0)
    }
    text.family("remote_g2_member_keys", .gauge, "Blocks that a member announces.")
    for member in members { text.value([("member", member.name)], Double(member.keys)) }
    text.family("remote_g2_pull_ends_total", .counter, "How a member's answers ended.")
    for member in members {
      for (end, count) in member.ends.sorted(by: { $0.key < $1.key }) {
        text.value([("member", member.name), ("end", end)], Double(count))
      }
    }
    return text.text
  }
}

/// Families of values, each told once. A family without values is left out.
private struct MetricsText {
  enum Kind: String { case gauge, counter }

  private(set) var text = ""
  private var family = ""
  private var isTold = false
  private var heading = ""

  mutating func family(_ name: String, _ kind: Kind, _ help: String) {
    family = name
    isTold = false
    heading = "# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n"
  }

  mutating func value(_ labels: [(String, String)], _ value: Double) {
    if !isTold {
      isTold = true
      text += heading
    }
    text += family
    if !labels.isEmpty {
      text += "{" + labels.map { "\($0.0)=\"\(Self.escaped($0.1))\"" }.joined(separator: ",") + "}"
    }
    text += " \(value == value.rounded() && abs(value) < 1e15 ? "\(Int(value))" : "\(value)")\n"
  }

  private static func escaped(_ text: String) -> String {
    text.reduce(into: "") { result, character in
      switch character {
      case "\\": result += "\\\\"
      case "\"": result += "\\\""
      case "\n": result += "\\n"
      default: result.append(character)
      }
    }
  }
}

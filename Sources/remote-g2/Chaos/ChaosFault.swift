/// What can happen to a pull.
enum ChaosFault: String, Codable, CaseIterable {
  case storeKilled, storeStopped, storeStoppedForGood, sourceEngineKilled, targetKilled
  case agentAborted, ownStoreKilled, ownStoreAborted, evictionStorm, cancelStorm, linkCut,
    linkSlowed, storeLeaves

  var needsLink: Bool { self == .linkCut || self == .linkSlowed }
  /// The faulted request itself lives to its end.
  var keepsRequest: Bool { self != .targetKilled && self != .cancelStorm }
}

/// One fault and what came of it.
struct ChaosRound: Codable {
  let number: Int
  let fault: ChaosFault
  var prompt_tokens = 0
  /// Share of the pull that had landed when it happened.
  var landed_share = 0.0
  var is_proved = false
  var clean_ttft_s: Double?
  var ttft_s: Double?
  var fault_to_settle_s: Double?
  /// Of the killed process, just before.
  var resident_mb: Int?
  var own_store_back_s: Double?
  var tokens_pulled = 0
  var tokens_kept = 0
  var leading_landed = 0
  var reasons: [String] = []
  var identical = false
  var leaks = 0
  var unmet: [String] = []

  init(number: Int, fault: ChaosFault) {
    self.number = number
    self.fault = fault
  }

  var ratio: Double? { ttft_s.flatMap { ttft in clean_ttft_s.map { ttft / $0 } } }
  var ok: Bool { unmet.isEmpty }

  mutating func expect(_ holds: Bool, _ what: String) {
    if !holds { unmet.append(what) }
  }
}

import RemoteG2Core

/// One fetch as the scheduler half keeps it: the machine, and what its shell needs to act for it.
final class FetchRecord {
  var machine: FetchMachine
  let request: RequestID
  let source: SourceID
  /// Keys asked for, and their place in the request's block table.
  let keys: [BlockKey]
  let first: Int
  var grant: Grant?
  /// The source has answered the resolve; every resolve is answered once.
  var isAnswered = false
  /// Leading granted blocks that the request computed or found meanwhile.
  var skipped = 0
  var targets: [BlockIndex] = []
  var unquiet: [BlockIndex] = []
  var isExpired = false
  /// The deadline that ended the move, if one did.
  var dueAt: LocalInstant?
  /// The table's.
  var listedDeadline: LocalInstant?
  var isCountedSettled = false

  init(
    machine: consuming FetchMachine, request: RequestID, source: SourceID, keys: [BlockKey],
    first: Int
  ) {
    self.machine = machine
    self.request = request
    self.source = source
    self.keys = keys
    self.first = first
  }

  /// The granted blocks that are being moved.
  var granted: ArraySlice<GrantedBlock> {
    (grant?.blocks ?? []).dropFirst(skipped).prefix(targets.count)
  }
  /// Their keys.
  var movedKeys: ArraySlice<BlockKey> { keys.dropFirst(skipped).prefix(targets.count) }
}

/// What is remembered of a request between steps.
struct LoadHistory {
  var active: FetchID?
  var hasTriedLocal = false
  var hasTriedPeer = false
  /// Until when an unfinished handshake is waited for.
  var notReadyUntil: LocalInstant?
  /// Why less was loaded than could have been; each is counted too.
  var reasons: [FallbackReason] = []
}

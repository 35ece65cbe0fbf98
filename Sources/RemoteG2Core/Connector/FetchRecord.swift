/// One fetch as the scheduler half keeps it: the machine, and what its shell needs to act for it.
package final class FetchRecord {
  package var machine: FetchMachine
  package let request: RequestID
  package let source: SourceID
  /// Keys asked for, and their place in the request's block table.
  package let keys: [BlockKey]
  package let first: Int
  package var grant: Grant?
  /// The source has answered the resolve; every resolve is answered once.
  package var isAnswered = false
  /// Leading granted blocks that the request computed or found meanwhile.
  package var skipped = 0
  package var targets: [BlockIndex] = []
  package var unquiet: [BlockIndex] = []
  package var isExpired = false
  /// When a rank found the load stalled, or else the hard deadline, if that came during the move.
  package var dueAt: LocalInstant?
  /// The table's.
  package var listedDeadline: LocalInstant?
  package var isCountedSettled = false

  package init(
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
  package var granted: ArraySlice<GrantedBlock> {
    (grant?.blocks ?? []).dropFirst(skipped).prefix(targets.count)
  }
  /// Their keys.
  package var movedKeys: ArraySlice<BlockKey> { keys.dropFirst(skipped).prefix(targets.count) }
}

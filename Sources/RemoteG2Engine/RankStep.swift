internal import ContentDigest
internal import KVConnector
internal import KVLayout
internal import RemoteG2Core

/// What every rank does with a plan, the leader's included: begin, forward, digests, end.
struct RankStep {
  let model: any ForwardPass
  let memory: UnsafeMutableRawPointer
  let worker: any WorkerConnector
  /// This rank's own.
  let clock: () -> LocalInstant

  /// - Parameter forward: Calls the model; given so that the leader can time it.
  func run(
    _ plan: StepPlan, rank: Int, forward: (() -> [[Float]]) -> [[Float]]
  ) -> (logits: [[Float]], report: RankReport) {
    worker.begin(plan.orders)
    let logits = plan.spans.isEmpty ? [] : forward { model.forward(plan.spans, pool: memory) }
    var report = worker.end(rank: rank, sequence: plan.sequence)
    report.loadErrors += worker.takeLoadErrors()
    report.kvDigests = plan.digests.map(digest)
    report.at = clock()
    return (logits, report)
  }

  private func digest(_ order: KVDigestOrder) -> Digest128 {
    let layout = model.layout
    var digest = StreamingDigest()
    for (position, block) in order.blocks.enumerated() {
      let tokens = min(layout.tokensPerBlock, order.tokens - position * layout.tokensPerBlock)
      guard tokens > 0 else { break }
      let base = memory + Int(block) * layout.blockBytes
      for extent in layout.extents(ofFirst: tokens) {
        digest.add(UnsafeRawBufferPointer(start: base + extent.offset, count: extent.count))
      }
    }
    return digest.value()
  }

  /// One digest of what all ranks hold; of one rank, its own.
  static func combine(_ parts: [Digest128]) -> Digest128 {
    if parts.count == 1 { return parts[0] }
    var digest = StreamingDigest()
    for part in parts {
      withUnsafeBytes(of: (part.high.bigEndian, part.low.bigEndian)) { digest.add($0) }
    }
    return digest.value()
  }
}

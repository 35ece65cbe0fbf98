internal import EngineControl
internal import KVConnector
internal import RemoteG2Core
internal import RemoteG2Engine
internal import RemoteG2Runtime
internal import Synchronization
internal import TransferRig

/// What each command does.
extension WorkerConsole {
  func perform(_ command: WorkerCommand, _ worker: Worker) async {
    let id = command.id
    switch command.action {
    case .generate(let generation): generate(generation, id, worker)
    case .cancel: cancel(id, worker)
    case .drop(let caches): await drop(caches, id, worker)
    case .save(let prompt):
      worker.onStepThread { [self] worker in
        write(.done(id, count: worker.engine.saveAgain(prompt: prompt)))
      }
    case .pace(let pace): setPace(pace, id, worker)
    case .renewals(let isOn):
      worker.control.setRenewals(dropped: !isOn)
      write(.done(id))
    case .leaseTTL(let seconds):
      guard (seconds ?? 1) > 0, (seconds ?? 1) < 86400 else {
        return write(.error(id, "a lease lives more than 0 s and less than a day"))
      }
      worker.control.setLeaseTTL(seconds.map { .nanoseconds(Int64($0 * 1e9)) })
      write(.done(id))
    case .proof(let name): setProof(name, id, worker)
    case .fault(let fault): inject(fault, id, worker)
    case .trace(let isOn): onStep(worker, id) { $0.connector.setTracing(isOn) }
    case .audit:
      var audit = await worker.audit()
      audit.eventsDropped = output.droppedCount
      write(.audit(id, audit))
    case .stop: break
    }
  }

  /// Does it between two steps, and then says that it is done.
  private func onStep(_ worker: Worker, _ id: UInt64, _ body: @escaping @Sendable (Worker) -> Void)
  {
    worker.onStepThread { [self] worker in
      body(worker)
      write(.done(id))
    }
  }

  /// The request that was submitted under this number.
  func cancel(_ id: UInt64, _ worker: Worker) {
    let request = callers.withLock { callers in callers.first { $0.value == id }?.key }
    worker.onStepThread { worker in
      if let request { worker.engine.cancel(RequestID(request)) }
    }
  }

  private func drop(_ caches: WorkerCommand.Caches, _ id: UInt64, _ worker: Worker) async {
    if caches.store == true {
      let answer = await worker.control.askOwnStore(within: .seconds(2)) { .evict($0) }
      guard case .evicted = answer else {
        return write(.error(id, "the store did not evict: it is away"))
      }
    }
    let dropsCache = caches.g1 == true
    onStep(worker, id) { if dropsCache { $0.engine.dropCache() } }
  }

  private func setPace(_ pace: WorkerCommand.Pace, _ id: UInt64, _ worker: Worker) {
    guard (pace.bytesPerSecond ?? 1) >= 1, (pace.transferBlocks ?? 1) > 0 else {
      return write(.error(id, "a pace is at least 1 byte a second and 1 block a transfer"))
    }
    guard hasRanks(pace.ranks, id, worker) else { return }
    onStep(worker, id) {
      $0.connector.setPace(
        pace.bytesPerSecond, transferBlocks: pace.transferBlocks, ranks: pace.ranks)
    }
  }

  private func setProof(_ name: String, _ id: UInt64, _ worker: Worker) {
    // Whatever lands is then confirmed by the rig, and nothing else is asked.
    let isTrusting = name == "unsafelyTrusting"
    guard let policy = isTrusting ? .off : ProofPolicy(rawValue: name) else {
      let names = ProofPolicy.allCases.map(\.rawValue) + ["unsafelyTrusting"]
      return write(.error(id, "a proof policy is one of: \(names.joined(separator: ", "))"))
    }
    let control = trusting.withLock { $0 }
    onStep(worker, id) {
      control?.setTrusting(isTrusting)
      $0.connector.setProof(policy)
    }
  }

  private func inject(_ command: WorkerCommand.Fault, _ id: UInt64, _ worker: Worker) {
    let fault = command.fault.flatMap { TransferFault(rawValue: $0) }
    guard breaks, command.fault == nil || fault != nil else {
      let names = TransferFault.allCases.map(\.rawValue).joined(separator: ", ")
      return write(.error(id, "a fault needs --inject, and is one of: \(names)"))
    }
    guard hasRanks(command.ranks, id, worker) else { return }
    let ranks = command.ranks ?? Array(0..<worker.rankCount)
    onStep(worker, id) { $0.connector.inject(fault, ranks: ranks) }
  }

  /// Whether all the ranks that a command names are there. Answers it when not.
  private func hasRanks(_ ranks: [Int]?, _ id: UInt64, _ worker: Worker) -> Bool {
    let all = 0..<worker.rankCount
    guard let stranger = ranks?.first(where: { !all.contains($0) }) else { return true }
    write(
      .error(
        id, "there is no rank \(stranger): this worker has ranks 0 to \(all.upperBound - 1)"))
    return false
  }

  private func generate(_ command: WorkerCommand.Generation, _ id: UInt64, _ worker: Worker) {
    let number = requestNext.withLock { next in
      defer { next += 1 }
      return next
    }
    var hint: Hint?
    if let given = command.hint {
      do throws(HintError) {
        hint = try Hint(
          version: given.v, store: given.store, blocksMax: given.blocks, limits: limits)
      } catch {
        // Advisory: the request is served without it, and its router is told.
        write(.error(id, "hint ignored: \(error)"))
      }
    }
    let spec = RequestSpec(
      id: RequestID(number), prompt: command.prompt, generateMax: command.max ?? 64,
      hint: hint, ignoresEnd: command.ignoreEnd ?? false, wantsDigests: true)
    callers.withLock { $0[number] = id }
    worker.onStepThread { [self] worker in
      do throws(RequestError) { try worker.engine.submit(spec) } catch {
        callers.withLock { $0[number] = nil }
        write(.error(id, "\(error)"))
      }
    }
  }
}

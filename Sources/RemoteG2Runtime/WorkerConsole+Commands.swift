internal import KVConnector
internal import KVTransfer
internal import RemoteG2Core
internal import RemoteG2Engine
internal import Synchronization

/// What each command does.
extension WorkerConsole {
  func perform(_ command: WorkerCommand, _ worker: Worker) async {
    let id = command.id
    switch command.cmd {
    case .generate: generate(command, worker)
    case .cancel:
      let request = callers.withLock { callers in callers.first { $0.value == id }?.key }
      worker.onStepThread { worker in
        if let request { worker.engine.cancel(RequestID(request)) }
      }
    case .drop:
      if command.store == true {
        let answer = await worker.control.askOwnStore(within: .seconds(2)) { .evict($0) }
        guard case .evicted = answer else {
          write(WorkerEvent(.error, id: id, message: "the store did not evict: it is away"))
          return
        }
      }
      let dropsCache = command.g1 == true
      worker.onStepThread { [self] worker in
        if dropsCache { worker.engine.dropCache() }
        write(WorkerEvent(.done, id: id))
      }
    case .save:
      let prompt = command.prompt ?? []
      worker.onStepThread { [self] worker in
        var event = WorkerEvent(.done, id: id)
        event.count = worker.engine.saveAgain(prompt: prompt)
        write(event)
      }
    case .pace:
      guard (command.bytesPerSecond ?? 1) >= 1, (command.transferBlocks ?? 1) > 0 else {
        write(
          WorkerEvent(
            .error, id: id, message: "a pace is at least 1 byte a second and 1 block a transfer"))
        return
      }
      guard hasRanks(command, worker) else { return }
      worker.onStepThread { [self] worker in
        worker.connector.setPace(
          command.bytesPerSecond, transferBlocks: command.transferBlocks, ranks: command.ranks)
        write(WorkerEvent(.done, id: id))
      }
    case .renewals:
      worker.control.setRenewals(dropped: command.on == false)
      write(WorkerEvent(.done, id: id))
    case .ttl:
      let seconds = command.seconds
      guard (seconds ?? 1) > 0, (seconds ?? 1) < 86400 else {
        write(
          WorkerEvent(.error, id: id, message: "a lease lives more than 0 s and less than a day"))
        return
      }
      worker.control.setLeaseTTL(seconds.map { .nanoseconds(Int64($0 * 1e9)) })
      write(WorkerEvent(.done, id: id))
    case .proof:
      guard let policy = ProofPolicy(named: command.policy ?? "") else {
        write(WorkerEvent(.error, id: id, message: "unknown proof policy"))
        return
      }
      worker.onStepThread { [self] worker in
        worker.connector.setProof(policy)
        write(WorkerEvent(.done, id: id))
      }
    case .fault:
      let fault = command.fault.map { TransferFault(rawValue: $0) }
      guard worker.configuration.injectsFaults, fault != .some(nil) else {
        write(
          WorkerEvent(
            .error, id: id,
            message: "a fault needs --inject, and is one of: "
              + TransferFault.allCases.map(\.rawValue).joined(separator: ", ")))
        return
      }
      guard hasRanks(command, worker) else { return }
      let ranks = command.ranks ?? Array(0..<worker.rankCount)
      worker.onStepThread { [self] worker in
        worker.connector.inject(fault ?? nil, ranks: ranks)
        write(WorkerEvent(.done, id: id))
      }
    case .trace:
      let isOn = command.on == true
      worker.onStepThread { [self] worker in
        worker.connector.setTracing(isOn)
        write(WorkerEvent(.done, id: id))
      }
    case .audit:
      var event = WorkerEvent(.audit, id: id)
      event.audit = await worker.audit()
      event.audit?.eventsDropped = output.droppedCount
      write(event)
    case .stop: break
    }
  }

  /// Whether all the ranks that a command names are there. Answers it when not.
  private func hasRanks(_ command: WorkerCommand, _ worker: Worker) -> Bool {
    let all = 0..<worker.rankCount
    guard let stranger = command.ranks?.first(where: { !all.contains($0) }) else { return true }
    write(
      WorkerEvent(
        .error, id: command.id,
        message: "there is no rank \(stranger): this worker has ranks 0 to \(all.upperBound - 1)"))
    return false
  }

  private func generate(_ command: WorkerCommand, _ worker: Worker) {
    let number = requestNext.withLock { next in
      defer { next += 1 }
      return next
    }
    var hint: Hint?
    if let wire = command.hint {
      do throws(HintError) {
        hint = try Hint(
          version: wire.v, store: wire.store, blocksMax: wire.blocks, limits: limits)
      } catch {
        // Advisory: the request is served without it, and its router is told.
        write(WorkerEvent(.error, id: command.id, message: "hint ignored: \(error)"))
      }
    }
    let spec = RequestSpec(
      id: RequestID(number), prompt: command.prompt ?? [], generateMax: command.max ?? 64,
      hint: hint, ignoresEnd: command.ignoreEnd ?? false, wantsDigests: true)
    callers.withLock { $0[number] = command.id }
    let id = command.id
    worker.onStepThread { [self] worker in
      do throws(RequestError) { try worker.engine.submit(spec) } catch {
        callers.withLock { $0[number] = nil }
        write(WorkerEvent(.error, id: id, message: "\(error)"))
      }
    }
  }
}

/// What a connector asks of its control client. Whatever is answered is answered in bounded time.
public enum ControlRequest: Equatable, Sendable {
  /// The asker names the lease; a question it gives up is ended by its release.
  case resolve(FetchID, SourceID, LeaseID, keys: [BlockKey], timeout: Duration)
  /// As `resolve`, of the own store only, which may fetch what it lacks before it answers; it then says
  /// `pending` at once. `pace`: what computing one block takes here; zero: not known. Whoever asks sets itself
  /// a deadline.
  case want(FetchID, SourceID, LeaseID, keys: [BlockKey], pace: Duration)
  case confirm(FetchID, SourceID, LeaseID, timeout: Duration)
  /// Not answered: the lease's deadline answers for it.
  case release(SourceID, LeaseID)
  /// Which of these blocks does the own store lack?
  case offer(batch: UInt64, SourceID, keys: [BlockKey])
  /// Every rank has staged these. Answered by `saved`, block by block.
  case commit(SourceID, [CommittedBlock])
  /// Some rank could not stage these. Not answered.
  case withdraw(SourceID, [BlockKey])
  /// What was staged in this step or before it, and is not committed by now, will not be. Not answered.
  case settled(SourceID, step: UInt64)
}

public enum ControlAnswer: Equatable, Sendable {
  /// Nil: no answer in time, or no connection. `after` is the question's own time, without the wait
  /// for the step that hears of it.
  case resolved(FetchID, ResolveAnswer?, after: Duration)
  /// What was wanted is being fetched by the own store.
  case pending(FetchID)
  case confirmed(FetchID, ConfirmAnswer?)
  /// The places of the offered blocks that this store lacks.
  case wanted(batch: UInt64, SourceID, [Int])
  case saved(SourceID, [SaveOutcome])
  /// A renewal was refused: the lease is over.
  case leaseEnded(SourceID, LeaseID)
  /// A source can be asked as soon as every rank has opened its address. Announcements and deaths are told in
  /// the order in which they happened: an announcement that comes after `sourceDied` is a new one.
  case announced(SourceID, [SourceAddress])
  /// A peer's incarnation is dead, or given up after minutes of silence; or the own store is away, and
  /// what was under way to it is lost. It may be announced again.
  case sourceDied(SourceID)
}

/// What is known of a named peer right now.
public enum PeerState: Equatable, Sendable {
  /// Not in the member list.
  case unknown
  /// A member that has not introduced itself, or does not answer at the moment.
  case notReady
  case ready(SourceID)
  /// It does not answer, or nothing is there: its breaker is open.
  case off
  /// It answered, and may not share with us.
  case refused(Fingerprint.Mismatch)
}

/// A question to a peer's store.
public enum PeerCall: Equatable, Sendable {
  case handshake
  case resolve(LeaseID, keys: [BlockKey], ttl: Duration?)
  case renew(LeaseID, ttl: Duration?)
  case confirm(LeaseID)
  case release(LeaseID)
}

/// A peer's store's answer, by question.
public enum PeerReply: Equatable, Sendable {
  case introduction(Introduction)
  case resolved(ResolveAnswer)
  case renewed(RenewAnswer)
  case confirmed(ConfirmAnswer)
  case released(ReleaseAnswer)
}

/// How a call ended that was not answered as it should.
public enum CallFailure: Error, Equatable, Sendable {
  /// Nobody listens at the address.
  case refused
  /// The connection broke, or could not be made.
  case unavailable
  case timedOut
  /// It is there, and cannot serve peers yet.
  case starting
  /// It answered with something that is not an answer.
  case invalid
}

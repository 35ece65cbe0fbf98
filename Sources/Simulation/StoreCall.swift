import RemoteG2Core

/// What an engine asks of a store, as it would cross the wire.
enum StoreCall {
  case handshake
  case resolve([BlockKey], from: Incarnation)
  case renew(LeaseID)
  case confirm(LeaseID)
  case release(LeaseID)
  case reserve([BlockKey], of: Incarnation)
  case seal([SavedBlock], rank: Int, of: Incarnation)
}

/// What comes back.
enum StoreReply {
  case introduction(Incarnation)
  case resolved(ResolveAnswer)
  case renewed(RenewAnswer)
  case confirmed(ConfirmAnswer)
  case reserved([Reservation])
  /// Heard; the caller needs no more.
  case done
  /// Nothing listens there.
  case refused
}

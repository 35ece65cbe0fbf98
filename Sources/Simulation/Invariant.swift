/// What must hold in every run. The numbers are those of the failure atlas's fourth part.
package enum Invariant: String, Sendable, CaseIterable {
  /// F07 F12 F27 F34 F37 F38 F41 F43 F44 F69 F85: every token comes from KV that is right to the bit.
  case failClosed = "I1"
  /// F20 F39 F55 F56 F59 F61 F67 F68 F70: no block has a user while something may still write it.
  case quietBeforeReuse = "I2"
  /// F25 F31 F38 F40 F46 F47 F57 F60 F62: a fetch settles once, a lease is released once.
  case oneTerminalResult = "I3"
  /// F10 F14 F23 F29 F30 F32 F33 F51 F54 F76: after a step nothing is overdue.
  case noWaitWithoutDeadline = "I4"
  /// F63 F64 F65 F66: one outcome holds for all ranks: what is valid is right on each of them.
  case leaderDecides = "I5"
  /// F05 F08 F40 F71 F72 F75 F77 F85: fetches, leases and incarnations are never named twice.
  case namesNeverReused = "I6"
  /// F21 F52 F69 F70 F44: what can be found by its key has the bytes of that key.
  case visibleOnlyWhenSealed = "I7"
  /// F45 F49 F50 F51 F52 F53 F54: once faults heal, every request ends with its tokens.
  case recomputeIsNormal = "I8"
  /// F13 F18 F81 F82 F09: pins, leases and fetches stay within their budgets; what is counted as
  /// quarantined is what is.
  case budgets = "I9"
  /// F01 F02 F35 F36 F77 F78 F79 F80: a service that vanishes and returns is used again.
  case sideServiceMayVanish = "I10"
  /// F83 F84 F86 F87 F68: whatever a peer answers, nothing traps and no token changes.
  case trustBoundary = "I11"
  /// F88 F89 F90 F48: every fallback is counted once, and at the end nothing is left over.
  case accounted = "I12"
}

/// An invariant that did not hold.
package struct Violation: Error, Sendable, CustomStringConvertible {
  package let invariant: Invariant
  package let what: String
  package let step: Int

  package var description: String { "\(invariant.rawValue) at step \(step): \(what)" }
}

/// A mistake planted on purpose: a checker that does not catch it checks nothing.
package enum PlantedBug: String, Sendable, CaseIterable {
  /// Blocks that may still be written go back to the pool at the settle.
  case freeBeforeQuiet
  /// Landed blocks are believed without confirm or digests.
  case sealBeforeProof
  /// Every lease is released twice.
  case doubleRelease
  /// An engine that computes nothing is woken by new requests only.
  case idleEngineNotWoken
  /// The leader takes its own account of a load for every rank's.
  case rankFailureIgnored
  /// A block is saved under another block's key, as when a reservation made in one store was applied to
  /// its successor.
  case savedUnderAnotherKey
  /// A rank writes what it has staged before the store has copied it, as when a stopped writer woke up.
  case writesAfterStaging
  /// The store is not told that a block will not be committed.
  case withdrawForgotten
  /// The store's word on what it lacks is lost, and nobody asks again.
  case wantedLost
  /// An engine that has lost its own store does not look for it again.
  case storeNotLookedForAgain

  /// The invariant that names the mistake.
  package var names: Invariant {
    switch self {
    case .freeBeforeQuiet: .quietBeforeReuse
    case .sealBeforeProof: .failClosed
    case .doubleRelease: .oneTerminalResult
    case .idleEngineNotWoken: .recomputeIsNormal
    case .rankFailureIgnored: .leaderDecides
    case .savedUnderAnotherKey, .writesAfterStaging: .visibleOnlyWhenSealed
    case .withdrawForgotten, .wantedLost: .accounted
    case .storeNotLookedForAgain: .sideServiceMayVanish
    }
  }
}

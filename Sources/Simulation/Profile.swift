import KVTransfer
import RemoteG2Core
import TransferRig

/// How bad the world is. Every run draws which faults it has and how often (swarm testing): a run
/// with everything at once hides what two of them do together.
package struct Profile: Sendable {
  package let name: String
  let crashes: Bool
  let network: Bool
  let transfers: Bool
  let pressure: Bool
  let hostile: Bool

  package static let all = [
    Profile(
      name: "swarm", crashes: true, network: true, transfers: true, pressure: true,
      hostile: true),
    Profile(
      name: "crash", crashes: true, network: false, transfers: false,
      pressure: false, hostile: false),
    Profile(
      name: "network", crashes: false, network: true, transfers: false,
      pressure: false, hostile: false),
    Profile(
      name: "transfer", crashes: false, network: false, transfers: true,
      pressure: false, hostile: false),
    Profile(
      name: "calm", crashes: false, network: false, transfers: false,
      pressure: false, hostile: false),
  ]

  package static func named(_ name: String) -> Profile? { all.first { $0.name == name } }
}

/// One run's drawing of the profile.
struct Weights {
  var transferFault: [(fault: TransferFault, probability: Double)] = []
  var loss = 0.0
  var duplication = 0.0
  var delayMax: Duration = .milliseconds(2)
  var partition = 0.0
  var clog = 0.0
  var storeCrash = 0.0
  var engineCrash = 0.0
  var enginePause = 0.0
  var engineGhost = 0.0
  var hostVanish = 0.0
  var attachFailure = 0.0
  var storeStop = 0.0
  var clockJump = 0.0
  var evictionStorm = 0.0
  var cancel = 0.0
  var hostile = 0.0
  var renewalsDropped = 0.0
  var blocksMin = 48
  var driftMax = 0.0

  init(_ profile: Profile, _ chance: inout Chance) {
    func drawn(_ isPossible: Bool, _ most: Double) -> Double {
      // Each fault is absent from half of the runs.
      let isOn = chance.happens(0.5)
      let size = chance.unit()
      return isPossible && isOn ? most * size * size : 0
    }
    for fault in TransferFault.allCases {
      var probability = drawn(profile.transfers, 0.6)
      // Only what hangs is fenced, and only if its source dies meanwhile.
      if fault == .hang {
        probability = max(probability, drawn(profile.transfers, 1), drawn(profile.transfers, 1))
      }
      if probability > 0 { transferFault.append((fault, probability)) }
    }
    loss = drawn(profile.network, 0.2)
    duplication = drawn(profile.network, 0.2)
    if drawn(profile.network, 1) > 0 {
      delayMax = chance.duration(.milliseconds(2)...(.milliseconds(60)))
    }
    partition = drawn(profile.network, 1)
    clog = drawn(profile.network, 1)
    storeCrash = max(drawn(profile.crashes, 1), drawn(profile.crashes, 1))
    engineCrash = drawn(profile.crashes, 0.5)
    enginePause = drawn(profile.crashes, 1)
    engineGhost = drawn(profile.crashes, 0.5)
    hostVanish = drawn(profile.crashes, 0.5)
    attachFailure = drawn(profile.crashes, 0.3)
    storeStop = drawn(profile.crashes, 1)
    clockJump = drawn(profile.network, 0.5)
    evictionStorm = drawn(profile.pressure, 1)
    cancel = drawn(profile.pressure, 1)
    if drawn(profile.pressure, 1) > 0 { blocksMin = 20 }
    hostile = drawn(profile.hostile, 0.05)
    renewalsDropped = drawn(profile.network, 0.5)
    driftMax = drawn(profile.network, 0.1)
  }

  /// Faults that come by themselves, each with its share.
  var ambient: [(Ambient, Double)] {
    [
      (.partition, partition), (.clog, clog), (.storeCrash, storeCrash),
      (.engineCrash, engineCrash), (.enginePause, enginePause),
      (.engineGhost, engineGhost), (.hostVanish, hostVanish), (.storeStop, storeStop),
      (.clockJump, clockJump), (.evictionStorm, evictionStorm), (.cancel, cancel),
      (.renewalsDropped, renewalsDropped),
    ].filter { $0.1 > 0 }
  }

  enum Ambient: CaseIterable {
    case partition, clog, storeCrash, engineCrash, enginePause, engineGhost
    case hostVanish, storeStop, clockJump
    case evictionStorm, cancel, renewalsDropped
  }
}

import Foundation
import RemoteG2Core
import Simulation
import Testing

/// Sanitizers run fewer.
enum SimulationSize {
  static let seeds = ProcessInfo.processInfo.environment["SIM_SEEDS"].flatMap(UInt64.init) ?? 300
}

@Suite struct `A simulated world` {
  @Test(arguments: Profile.all.map(\.name))
  func `no seed breaks an invariant`(profile: String) throws {
    let profile = try #require(Profile.named(profile))
    var stats = SimStats()
    for seed in UInt64(1)...SimulationSize.seeds {
      let outcome = Simulation.run(seed: seed, steps: 2000, profile: profile)
      #expect(
        outcome.violation == nil,
        "remote-g2 sim --profile \(profile.name) --steps 2000 --seed \(seed)")
      stats.requests += outcome.stats.requests
      stats.finished += outcome.stats.finished
      stats.pulls += outcome.stats.pulls
    }
    // Of a few seeds there may be several in which nothing pulls.
    let pullsMin = SimulationSize.seeds * (SimulationSize.seeds < 100 ? 1 : 2)
    #expect(
      stats.requests > SimulationSize.seeds * 20 && stats.pulls > pullsMin,
      "too little happened: \(stats)")
  }

  @Test(arguments: PlantedBug.allCases)
  func `a planted bug is caught by the invariant that names it`(bug: PlantedBug) throws {
    let profile = try #require(Profile.named("swarm"))
    var caught: [Invariant: Int] = [:]
    for seed in UInt64(1)...200 where caught[bug.names] == nil {
      let outcome = Simulation.run(seed: seed, steps: 2000, profile: profile, bug: bug)
      if let violation = outcome.violation { caught[violation.invariant, default: 0] += 1 }
    }
    #expect(caught[bug.names] != nil, "200 seeds did not show \(bug.names): \(caught)")
  }

  @Test func `a seed gives the same run twice`() throws {
    let profile = try #require(Profile.named("swarm"))
    for seed in UInt64(1)...20 {
      let first = Simulation.run(seed: seed, steps: 1000, profile: profile)
      let second = Simulation.run(seed: seed, steps: 1000, profile: profile)
      #expect(first.trace == second.trace && first.stats == second.stats, "seed \(seed)")
    }
  }

  @Test func `a world that has ended is kept in memory by nothing`() throws {
    let profile = try #require(Profile.named("swarm"))
    for seed in UInt64(1)...10 {
      #expect(Simulation.leftovers(seed: seed, steps: 1000, profile: profile) == 0)
      #expect(FleetSimulation.leftovers(seed: seed, steps: 1000) == 0)
    }
  }

  @Test func `an engine that is stopped twice at once has no timer that sleeps on`() throws {
    let profile = try #require(Profile.named("calm"))
    #expect(Simulation.timersOfAnEngineStoppedTwice(profile: profile) == ["before", "after"])
  }

  @Test func `no seed breaks an invariant of a fleet of nodes`() {
    var stats = FleetStats()
    for seed in UInt64(1)...SimulationSize.seeds {
      let outcome = FleetSimulation.run(seed: seed, steps: 2000)
      #expect(
        outcome.violation == nil,
        "\(outcome.violation?.description ?? ""): remote-g2 sim --profile fleet --steps 2000 --seed \(seed)"
      )
      stats.finished += outcome.stats.finished
      stats.blocksPulled += outcome.stats.blocksPulled
      stats.loads += outcome.stats.loads
      stats.loadsFailed += outcome.stats.loadsFailed
    }
    #expect(
      stats.finished > SimulationSize.seeds * 20 && stats.blocksPulled > SimulationSize.seeds
        && stats.loads > SimulationSize.seeds * 2, "too little happened: \(stats)")
  }

  @Test(arguments: FleetBug.allCases)
  func `a bug planted into a fleet is caught by the invariant that names it`(bug: FleetBug) {
    var caught: [Invariant: Int] = [:]
    // Most show themselves in the first few; two of them in one run of 150 and of 180.
    let isRare = bug == .bytesBeforeWord || bug == .nodeNotLookedForAgain
    let seeds: UInt64 = isRare ? 1500 : 300
    for seed in 1...seeds where caught[bug.names] == nil {
      let outcome = FleetSimulation.run(seed: seed, steps: 2000, bug: bug)
      if let violation = outcome.violation { caught[violation.invariant, default: 0] += 1 }
    }
    #expect(caught[bug.names] != nil, "\(seeds) seeds did not show \(bug.names): \(caught)")
  }

  @Test func `a seed gives the same run of a fleet twice`() {
    for seed in UInt64(1)...20 {
      let first = FleetSimulation.run(seed: seed, steps: 1000)
      let second = FleetSimulation.run(seed: seed, steps: 1000)
      #expect(first.trace == second.trace && first.stats == second.stats, "seed \(seed)")
    }
  }
}

import RemoteG2Core

/// One seeded run of the shipped code in a simulated world.
package enum Simulation {
  package struct Outcome: Sendable {
    package let seed: UInt64
    package let steps: Int
    package let violation: Violation?
    package let stats: SimStats
    /// Equal for two runs of one seed.
    package let trace: UInt64
  }

  package static func run(
    seed: UInt64, steps: Int, profile: Profile, bug: PlantedBug? = nil
  ) -> Outcome {
    let world = SimWorld(seed: seed, profile: profile, bug: bug)
    world.run(steps: steps)
    world.countEvents()
    defer { world.end() }
    return Outcome(
      seed: seed, steps: world.steps, violation: world.violation, stats: world.stats,
      trace: world.trace)
  }
}

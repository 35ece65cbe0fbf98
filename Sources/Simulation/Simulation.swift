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

  /// How many of a world, its nodes and its last engines are still in memory when it has ended.
  package static func leftovers(seed: UInt64, steps: Int, profile: Profile) -> Int {
    var kept: [() -> AnyObject?] = []
    do {
      let world = SimWorld(seed: seed, profile: profile, bug: nil)
      world.run(steps: steps)
      let engines = world.nodes.compactMap { $0.engine }
      let all = [world] as [AnyObject] + world.nodes + engines
      kept = all.map { one in { [weak one] in one } }
      world.end()
    }
    return kept.count { $0() != nil }
  }

  /// The order in which timers ran, of which one was due while the engine was stopped for long, and the other after a
  /// shorter stop that came meanwhile.
  package static func timersOfAnEngineStoppedTwice(profile: Profile) -> [String] {
    let world = SimWorld(seed: 1, profile: profile, bug: nil)
    defer { world.end() }
    guard let engine = world.nodes.first?.engine else { return [] }
    var ran: [String] = []
    let began = world.now
    world.pause(engine, for: .milliseconds(50))
    world.planFor(engine, at: began + 1_000_000) { ran.append("before") }
    while world.now < began + 2_000_000, world.step() {}
    world.pause(engine, for: .milliseconds(10))
    world.planFor(engine, at: began + 20_000_000) { ran.append("after") }
    while world.now < began + 60_000_000, world.step() {}
    return ran
  }
}

/// Which of a node's threads still turn. Each says so again and again, at least once a second where it has nothing
/// to do; one that has not for much longer hangs, whatever else still answers.
package struct Liveness: Sendable {
  package static let silenceMax: Duration = .seconds(5)

  private var turns: [String: LocalInstant] = [:]

  package init() {}

  package mutating func turned(_ thread: String, at now: LocalInstant) { turns[thread] = now }

  /// A thread that has ended as it was told to.
  package mutating func ended(_ thread: String) { turns[thread] = nil }

  /// The threads that hang, by name.
  package func hanging(at now: LocalInstant) -> [String] {
    turns.filter { now - $0.value > Self.silenceMax }.keys.sorted()
  }
}
